"""Who leads among the workers of one gateway, as the supervisor keeps it: without waiting, locks or clocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Place: TypeAlias = tuple[int, int]
"""A worker's slot, and its number for the claim."""

Told: TypeAlias = tuple[Place, bool]
"""Who is to hear, and whether it has the lead."""


@dataclass(slots=True)
class _Race:
    leader: Place
    waiting: deque[Place] = field(default_factory=deque)


class LeadDesk:
    """Gives each lead to one claim at a time; every method returns who is to be told what."""

    def __init__(self) -> None:
        self._races: Final[dict[str, _Race]] = {}
        self._keys: Final[dict[Place, str]] = {}

    def claim(self, place: Place, key: str) -> list[Told]:
        """Give the lead, or let the claim wait for it."""
        self._keys[place] = key
        race = self._races.get(key)
        if race is None:
            self._races[key] = _Race(place)
            return [(place, True)]
        race.waiting.append(place)
        return []

    def let_go(self, place: Place, *, is_stored: bool) -> list[Told]:
        """End a claim: with its answer stored all that wait for it go on, else the first of them has the lead."""
        key = self._keys.pop(place, None)
        race = self._races.get(key) if key is not None else None
        if key is None or race is None:
            return []
        if race.leader != place:
            race.waiting.remove(place)
            return []
        if not is_stored and race.waiting:
            race.leader = race.waiting.popleft()
            return [(race.leader, True)]
        del self._races[key]
        for each in race.waiting:
            del self._keys[each]
        return [(each, False) for each in race.waiting]

    def part(self, slot: int) -> list[Told]:
        """End all claims of a worker that is gone; nothing of what it led is taken to be stored."""
        gone = sorted(place for place in self._keys if place[0] == slot)
        led = [place for place in gone if self._races[self._keys[place]].leader == place]
        for place in gone:
            if place not in led:
                self.let_go(place, is_stored=False)
        return [told for place in led for told in self.let_go(place, is_stored=False)]
