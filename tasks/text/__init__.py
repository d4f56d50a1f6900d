"""Corpora: load, tokenize, pack."""
