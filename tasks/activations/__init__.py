"""What a model answers at its hooks, as batches and on disk, and what follows when something else takes their place."""
