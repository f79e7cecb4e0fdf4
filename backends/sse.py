"""Server-sent events as a pure object: bytes in, events out, in any chunking.

Rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
- a line ends with LF, CRLF or CR; a CRLF cut between two reads is one line end;
- the `data:` lines of an event are joined with LF; an event whose data is empty is not dispatched;
- a last event without its empty line is discarded: it was cut.
"""

from __future__ import annotations

from backends.errors import ReplyMalformed

EVENT_LIMIT_BYTES = 16 * 2**20
"""An event larger than this is an attack or a bug; the largest real ones carry base64 images of a few MB."""

_LINE_BYTES = 40
"""What a line costs in memory beside its text: an event of endless empty lines is endless too."""

DONE = b"[DONE]"


class EventDecoder:
    """Turns the bytes of a stream into the data of its events. One decoder a stream."""

    def __init__(self, *, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._rest: list[bytes] = []  # the beginning of a line, in the pieces it came in: they are joined once
        self._rest_size = 0
        self._data: list[bytes] = []
        self._size = 0
        self._is_start = True

    @property
    def is_between_events(self) -> bool:
        """Whether all that came is whole events, so that what comes next begins one."""
        return not (self._rest_size or self._data or self._is_start)

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of every event that `received` completes, in order.

        Raises:
            ReplyMalformed: when one event is larger than the limit.
        """
        is_line_open = not self._rest or not self._rest[-1].endswith(b"\r")
        self._rest.append(received)
        self._rest_size += len(received)
        # A byte order mark needs all of its three bytes.
        if self._is_start and self._rest_size < 3:
            return []
        if is_line_open and not self._is_start and b"\n" not in received and b"\r" not in received:
            self._check_size()
            return []
        buffer = b"".join(self._rest)
        if self._is_start:
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._is_start = False
        lines, rest = _split(buffer)
        self._rest, self._rest_size = [rest], len(rest)
        events = self._events(lines)
        self._check_size()
        return events

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if line:
                self._take(line)
                continue
            if payload := b"\n".join(self._data):
                if len(payload) > self._limit:
                    raise self._too_large()
                events.append(payload)
            self._data = []
            self._size = 0
        return events

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return  # comments, event names, ids and retry mean nothing to this protocol
        self._data.append(value.removeprefix(b" "))
        self._size += len(value) + _LINE_BYTES

    def _check_size(self) -> None:
        if self._size + self._rest_size > self._limit:
            raise self._too_large()

    def _too_large(self) -> ReplyMalformed:
        return ReplyMalformed(f"an event of the stream is larger than {self._limit} bytes (limits.max_event_bytes)")


def encode_event(data: bytes) -> bytes:
    """Return `data` (JSON or `[DONE]`) as one event."""
    # JSON may hold line ends between its tokens: each line is a `data:` line of its own.
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def encode_comment(text: str) -> bytes:
    """Return a comment that every client ignores; `text` has no line ends."""
    return b": " + text.encode() + b"\n\n"


def _split(buffer: bytes) -> tuple[list[bytes], bytes]:
    if b"\r" in buffer:
        # A final CR may be the first half of a CRLF whose LF is still on its way.
        held = b"\r" if buffer.endswith(b"\r") else b""
        body = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = body.split(b"\n")
        return lines[:-1], lines[-1] + held
    lines = buffer.split(b"\n")
    return lines[:-1], lines[-1]
