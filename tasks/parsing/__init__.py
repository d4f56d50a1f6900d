"""Validates input from outside: documents, values, text for a terminal, tensors."""
