"""From what was read to the lines of one frame."""
