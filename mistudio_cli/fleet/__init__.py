"""What commands do with supervisors and hosts: find, ask, start, stop, join."""
