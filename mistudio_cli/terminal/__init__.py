"""What a terminal or a pipe is given: words for numbers, tables as lines, the one sink."""
