"""Metrics as docs and reports name them: each from plain values to additive statistics."""
