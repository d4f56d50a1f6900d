"""One read of everything, and why a job is where it is."""
