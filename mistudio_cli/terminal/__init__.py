"""Output to a terminal or a pipe: numbers as words, tables as lines, the one sink."""
