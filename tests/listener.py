"""What every test upstream has under it: a free port, a task a connection, and an end that leaves none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Listener:
    """Accepts connections on loopback.

    Args:
        talk: serves one connection; its peer's leaving ends it, and is no error.
        limit: of the reader's buffer, in bytes.
    """

    def __init__(
        self, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], *, limit: int = 2**16
    ) -> None:
        self.origin = ""
        self._talk = talk
        self._limit = limit
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=self._limit)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, close what is open and wait for it."""
        if self._server is not None:
            self._server.close()
        for writer in self._open.values():
            writer.transport.abort()
        if self._open:
            await asyncio.wait(self._open)

    def close_idle(self) -> None:
        """Close every connection, as a server does with those that were silent for long."""
        for writer in self._open.values():
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection is served in a task")
        self._open[task] = writer
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._open[task]
            writer.close()
