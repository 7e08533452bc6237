"""Measurements of art_optim: what it costs and what it changes."""
