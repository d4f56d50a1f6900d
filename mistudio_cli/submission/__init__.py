"""From flags, JSON lines and pipeline files to requests."""
