"""The home's own Redis server, and whether a Redis answers."""
