"""From records to JSON, table rows and the live view."""
