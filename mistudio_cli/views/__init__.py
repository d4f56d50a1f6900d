"""From records to JSON, rows and paint."""
