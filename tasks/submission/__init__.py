"""From a request to the records of jobs: planned, tried again, not twice."""
