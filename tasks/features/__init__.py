"""Features of a trained SAE: top examples, statistics, one HTML page."""
