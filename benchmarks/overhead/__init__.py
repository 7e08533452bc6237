"""What the wrapper costs a step, beside the plain loop and what else weighs losses."""
