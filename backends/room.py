"""The memory that large bodies may take together: requests being received and whole answers being collected."""

from __future__ import annotations


class Room:
    """Bytes taken and given back, never more than a limit at once. One a process, used from its event loop.

    Args:
        limit_bytes: the most that may be taken; may be changed, and what is taken then stays so.
    """

    __slots__ = ("limit_bytes", "taken_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0

    def share(self) -> Share:
        """Return a part that has nothing yet."""
        return Share(self)


class Share:
    """What one body has of a room; `give_back` may be called more than once."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    @property
    def limit_bytes(self) -> int:
        """The most that all may take."""
        return self._room.limit_bytes

    def take(self, count: int) -> bool:
        """Take so many bytes more; False when there are not so many, and then none is taken."""
        room = self._room
        if room.taken_bytes + count > room.limit_bytes:
            return False
        room.taken_bytes += count
        self._bytes += count
        return True

    def give_back(self) -> None:
        """Give all of it back."""
        self._room.taken_bytes -= self._bytes
        self._bytes = 0
