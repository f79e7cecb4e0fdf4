"""Server-sent events as a pure object: bytes in, events out, in any chunking.

Rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
- a line ends with LF, CRLF or CR; a CRLF cut between two reads is one line end;
- the `data:` lines of an event are joined with LF; an event without data is not dispatched;
- a last event without its empty line is discarded: it was cut.
"""

from __future__ import annotations

from backends.errors import ReplyMalformed

EVENT_LIMIT_BYTES = 16 * 2**20
"""An event larger than this is an attack or a bug; the largest real ones carry base64 images of a few MB."""

DONE = b"[DONE]"


class EventDecoder:
    """Turns the bytes of a stream into the data of its events. One decoder a stream."""

    def __init__(self, *, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._is_start = True

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of every event that `received` completes, in order.

        Raises:
            ReplyMalformed: when one event is larger than the limit.
        """
        buffer = self._rest + received
        if self._is_start and len(buffer) >= 3:
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._is_start = False
        events: list[bytes] = []
        lines, self._rest = _split(buffer)
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data = []
                self._size = 0
        if self._size + len(self._rest) > self._limit:
            raise ReplyMalformed(f"an event of the stream is larger than {self._limit} bytes")
        return events

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return  # comments, event names, ids and retry mean nothing to this protocol
        value = value.removeprefix(b" ")
        self._data.append(value)
        self._size += len(value)


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
