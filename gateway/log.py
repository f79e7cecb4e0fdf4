"""Logging: events with fields, one JSON object a line on standard error.

An event is a name, its fields come as `extra`. Prompts, answers and secrets are never fields of an event. (structlog
was tried; it imports rich, which is 0.3 s of the two seconds that a start may take.)
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def set_up_logging(*, level: str) -> None:
    """Send our events, and the libraries' warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "timestamp", "levelname": "level", "name": "logger", "message": "event"},
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("faregate").setLevel(level.upper())
    # uvicorn reports each stream that we cut on purpose as an application that "returned without completing response".
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
