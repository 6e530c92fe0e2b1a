"""Sweeps: what their jobs lack is made once, together, and every job then finds it in the store."""
