"""One file per noun: parse, one call, hand over rows."""
