"""What each route of the table answers."""
