"""Logs of jobs and workers, where other hosts can read them."""
