"""Language models: found, checked, loaded, and how their products are computed."""
