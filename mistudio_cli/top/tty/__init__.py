"""The terminal: its abilities and modes, keys, signals, and writing what has changed."""
