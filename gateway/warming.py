"""Filling a running gateway's caches: every request of a file is asked once, over HTTP, as a client would."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from backends.words import JsonValue

_TIMEOUT_S = 600.0
"""The longest request a gateway makes by default (timeouts.total_s)."""


class WarmingError(Exception):
    """The file or the address cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """What came of it; a failure says which line and why."""

    answered: int
    cached: int
    failures: tuple[str, ...]


def read_requests(file: Path) -> list[bytes]:
    """Return the request bodies of a file, one a line; empty lines count for nothing.

    Raises:
        WarmingError: a line is no request; it is named.
    """
    return list(_bodies(file))


def warm_up(bodies: Sequence[bytes], *, url: str, key: str, parallel: int) -> Warmed:
    """Ask all of them, some at once.

    Args:
        bodies: of `/v1/chat/completions`.
        url: the gateway's address, with or without `/v1`.
        key: a tenant's.
        parallel: how many at once.

    Raises:
        WarmingError: the address is none.
    """
    if not url.startswith(("http://", "https://")):
        raise WarmingError(f"{url!r} is no address; give one such as http://127.0.0.1:4000")
    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        paths = list(pool.map(partial(_ask, address, key), range(1, len(bodies) + 1), bodies))
    failures = tuple(path.removeprefix("!") for path in paths if path.startswith("!"))
    cached = sum(path.startswith("cache:") for path in paths)
    return Warmed(answered=len(paths) - cached - len(failures), cached=cached, failures=failures)


def _bodies(file: Path) -> Iterator[bytes]:
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields: JsonValue = json.loads(line)
        except ValueError as error:
            raise WarmingError(
                f"{file}, line {number}: not JSON ({error}); one request body a line is wanted"
            ) from error
        if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
            raise WarmingError(
                f'{file}, line {number}: no request; a line is such as {{"model": "auto", "messages": [...]}}'
            )
        yield msgspec.json.encode({"model": "auto", "temperature": 0, **fields, "stream": False})


def _ask(address: str, key: str, number: int, body: bytes) -> str:
    """Return the path of the answer, or `!` and what went wrong."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(address, data=body, headers=headers)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
            answer.read()
            return str(answer.headers.get("x-faregate-path", ""))
    except urllib.error.HTTPError as error:
        said = error.read()[:500].decode(errors="replace")
        return f"!request {number}: HTTP {error.code} {said}"
    except (OSError, urllib.error.URLError) as error:
        return f"!request {number}: {error}"
