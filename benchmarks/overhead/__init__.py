"""What the wrapper costs a step, beside the plain loop and what else weighs losses."""

import os

# PyTorch reads them as it is imported: without, each step that is profiled prints some lines.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
