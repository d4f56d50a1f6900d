"""One file = one job kind. A file here declares cheaply and imports its heavy libraries inside `run`."""
