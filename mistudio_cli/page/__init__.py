"""The page at `/`: hand-written HTML, CSS and modules without a build, and what serves them."""
