"""From a TOML rule and the table of queues to workers and their command lines."""
