"""The words of JSON Schema for the types of parameters and of results."""

from __future__ import annotations

#: Of a parameter with several types the first here says most.
JSON_TYPES = {
    dict: "object",
    list: "array",
    bool: "boolean",
    float: "number",
    int: "integer",
    str: "string",
    type(None): "null",
}
