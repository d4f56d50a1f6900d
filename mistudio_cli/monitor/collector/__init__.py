"""Reads all that is watched: sources, each on a thread of its own with a deadline, and what they yield together."""
