"""The command line of mistudio, and what keeps its workers alive."""
