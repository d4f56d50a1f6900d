"""What is wrong here, and what fixes it."""
