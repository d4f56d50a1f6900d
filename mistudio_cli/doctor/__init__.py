"""Finds problems of this installation and suggests fixes."""
