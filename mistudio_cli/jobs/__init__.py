"""Jobs for commands: lookup, selection, waiting, export and logs."""
