"""Measurements: each module has `measure()` and runs by itself."""
