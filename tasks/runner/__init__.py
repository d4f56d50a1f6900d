"""The process of one heavy job. Nothing is imported here: a runner holds its pipe before it loads anything."""
