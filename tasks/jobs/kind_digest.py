"""Digests of what kinds of job take: a worker runs only jobs whose kind has the parameters that it knows."""

from __future__ import annotations

import dataclasses
import json
import zlib
from functools import cache

from tasks.jobs.kind import JobKind, kinds, types_of


def digest_of(kind: JobKind) -> str:
    """Eight hex digits of the kind's parameters: their names, types, choices and bounds; not their help or defaults.

    A job's record has every value, so that a default counts only where the job was submitted.
    """
    return _digest(kind.params)


def digests() -> dict[str, str]:
    """The digest of every kind that is known here, by its name."""
    return {name: digest_of(kind) for name, kind in kinds().items()}


@cache
def _digest(params: type) -> str:
    types, fields = types_of(params), dataclasses.fields(params)
    schema = [
        [
            field.name,
            sorted(known.__name__ for known in types[field.name]),
            *(field.metadata.get(name) for name in ("choices", "minimum", "maximum", "artifact")),
        ]
        for field in sorted(fields, key=lambda field: field.name)
    ]
    return f"{zlib.crc32(json.dumps(schema).encode()):08x}"
