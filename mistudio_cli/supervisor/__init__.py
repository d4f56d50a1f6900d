"""Keeps a home's Redis and workers alive. Nothing is imported here: the daemon's modules are loaded one by one."""
