"""SAEs of other libraries, read and turned into ours."""
