"""Groups of rows of the table of routes, with their examples and the shapes of their answers."""
