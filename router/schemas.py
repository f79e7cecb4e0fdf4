"""Whether JSON fits a client's own schema. Nothing is fetched: a `$ref` to an address is a schema that cannot be read.

The library would follow it, from the event loop, to wherever the client points: other hosts, or this machine's files.
"""

from __future__ import annotations

from typing import NoReturn

import jsonschema_rs

from backends.words import JsonValue


def fits(value: JsonValue, schema: JsonValue) -> bool:
    """Tell whether a value fits a schema; it does not where the schema is none, or cannot be read: who knows."""
    try:
        return bool(jsonschema_rs.is_valid(schema, value, retriever=_refuse))
    except (ValueError, RecursionError):
        return False


def _refuse(address: str) -> NoReturn:
    raise ValueError(f"schemas are not fetched: {address[:200]}")
