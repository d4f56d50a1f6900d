"""SAEs of other libraries, read and converted to the store's format."""
