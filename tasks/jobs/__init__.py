"""What a job is: its record, its kind, the grid of its values."""
