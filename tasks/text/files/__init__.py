"""Documents out of local files: which files make a corpus, and what is in them."""
