"""Readings of this machine: memory, disk, processes."""
