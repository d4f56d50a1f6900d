"""The panes of the live screen: what each shows as a table and on one line."""
