"""What is sent of a stream, kept as it is sent: a sink around the client's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.calls import Sink


class Tape:
    """What was sent of a stream, up to a limit."""

    __slots__ = ("_left", "_parts", "is_full")

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._parts: list[bytes] = []
        self.is_full = False

    def add(self, sent: bytes) -> None:
        """Keep what was sent, if there is room for all of it."""
        if len(sent) > self._left:
            self.is_full = True
            self._left = 0
            return
        self._left -= len(sent)
        self._parts.append(sent)

    def read(self) -> bytes:
        """Return it."""
        return b"".join(self._parts)


class TapedSink:
    """Implements `Sink`: passes everything on, and keeps what a body is made of."""

    def __init__(self, sink: Sink, tape: Tape) -> None:
        self._sink = sink
        self._tape = tape

    @property
    def is_started(self) -> bool:
        """Whether the status was sent."""
        return self._sink.is_started

    @is_started.setter
    def is_started(self, value: bool) -> None:
        self._sink.is_started = value

    @property
    def on_gone(self) -> Callable[[], bool] | None:
        """Asked when the client hangs up; see `Sink.on_gone`."""
        return self._sink.on_gone

    @on_gone.setter
    def on_gone(self, value: Callable[[], bool] | None) -> None:
        self._sink.on_gone = value

    @property
    def is_slow(self) -> bool:
        """Whether too much waits for the client to read it."""
        return self._sink.is_slow

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        await self._sink.start(status, headers)

    async def write(self, data: bytes) -> None:
        """Send some of the body."""
        self._tape.add(data)
        await self._sink.write(data)

    def offer(self, data: bytes) -> bool:
        """Send some of the body without waiting; see `Sink.offer`."""
        self._tape.add(data)
        return self._sink.offer(data)

    async def drain(self) -> None:
        """Wait until the client has read most of what was sent, or is gone."""
        await self._sink.drain()

    async def finish(self, data: bytes) -> None:
        """Send the last of the body; it is the gateway's own, or the whole answer, which is known anyway."""
        await self._sink.finish(data)

    def cut(self, data: bytes) -> None:
        """Send a last word, and never finish."""
        self._sink.cut(data)
