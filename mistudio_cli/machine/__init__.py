"""What this machine says of itself: memory, disk, processes."""
