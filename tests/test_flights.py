"""What a flight promises to its leader and its followers, without a gateway around it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.words import ModelId, Usage
from gateway.flights import Bought, FellBehind, FlightFailed, Flights, LeaderSink
from gateway.relay import Told

KEY = b"k" * 32
LANDED = Bought(
    model=ModelId("large"),
    told=Told(body=b"{}", usage=Usage(input_tokens=1), finish_reason="stop"),
    baseline_nusd=(1, 1, 1),
)


async def test_a_follower_that_reads_too_slowly_falls_behind_and_slows_nobody():
    with Flights(kept_bytes=100).lead(KEY) as flight, flight.follow() as slow:
        flight.begin(ModelId("large"))
        flight.push(b"first")
        assert await slow.read() == b"first"
        for _ in range(11):
            flight.push(b"x" * 10)
        with pytest.raises(FellBehind):
            await slow.read()


async def test_a_late_follower_gets_nothing_of_a_stream_whose_start_is_gone():
    with Flights(kept_bytes=10).lead(KEY) as flight:
        flight.begin(ModelId("large"))
        flight.push(b"x" * 8)
        flight.push(b"y" * 8)
        with flight.follow() as late, pytest.raises(FellBehind):
            await late.first(is_stream=True)


async def test_a_leader_that_leaves_without_landing_has_failed():
    flights = Flights()
    flight = flights.lead(KEY)
    with flight.follow() as follower:
        with flight:
            assert flights.find(KEY) is flight
        with pytest.raises(FlightFailed):
            await follower.first(is_stream=False)
    assert flights.find(KEY) is None


async def test_a_landed_flight_is_found_no_more_and_read_to_its_end():
    flights = Flights()
    with flights.lead(KEY) as flight, flight.follow() as follower:
        flight.begin(ModelId("large"))
        flight.push(b"all")
        flight.land(LANDED)
        assert flights.find(KEY) is None
        assert [await follower.read(), await follower.read()] == [b"all", LANDED]


async def test_who_follows_an_answer_that_is_not_shared_comes_back():
    flights = Flights()
    with flights.lead(KEY) as flight, flight.follow() as follower:
        flight.decline()
        with pytest.raises(FlightFailed):
            await follower.first(is_stream=True)
        flight.land(LANDED)
        assert (flight.landing, flights.find(KEY)) == (None, None)


async def test_a_second_leader_under_a_key_is_found_by_nobody():
    flights = Flights()
    with flights.lead(KEY) as first:
        with flights.lead(KEY):
            assert flights.find(KEY) is first
        assert flights.find(KEY) is first


@given(pieces=st.lists(st.binary(min_size=1, max_size=9), max_size=20), turns=st.lists(st.integers(0, 20), max_size=3))
def test_every_follower_reads_all_of_the_stream_whenever_it_comes(pieces: list[bytes], turns: list[int]):
    async def follow(flights: Flights, after: int) -> bytes:
        for _ in range(after):
            await asyncio.sleep(0)
        flight = flights.find(KEY)
        if flight is None:
            return b"".join(pieces)
        read = bytearray()
        with flight.follow() as follower:
            while isinstance(piece := await follower.read(), bytes):
                read += piece
        return bytes(read)

    async def fly() -> list[bytes]:
        flights = Flights()
        with flights.lead(KEY) as flight:
            async with asyncio.TaskGroup() as group:
                followers = [group.create_task(follow(flights, turn)) for turn in turns]
                flight.begin(ModelId("large"))
                for piece in pieces:
                    flight.push(piece)
                    await asyncio.sleep(0)
                flight.land(LANDED)
        return [task.result() for task in followers]

    assert all(read == b"".join(pieces) for read in asyncio.run(fly()))


class Client:
    """A sink whose client reads nothing until it is told to."""

    is_started = False
    on_gone = None
    is_slow = False

    def __init__(self) -> None:
        self.got = bytearray()
        self.is_cut = False
        self.reads = asyncio.Event()

    async def start(self, status: int, headers: object) -> None: ...

    async def write(self, _data: bytes) -> None:
        raise AssertionError("a leader's stream is offered")

    def offer(self, data: bytes) -> bool:
        self.got += data
        return self.reads.is_set()

    async def drain(self) -> None:
        await self.reads.wait()

    async def finish(self, data: bytes) -> None: ...

    def cut(self, _data: bytes) -> None:
        self.is_cut = True


async def test_a_leader_that_does_not_read_is_waited_for_until_somebody_follows():
    with Flights().lead(KEY) as flight:
        sink = LeaderSink(client := Client(), flight, ModelId("large"))
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            writing = group.create_task(sink.write(b"x"))
            await asyncio.sleep(0)
            assert not writing.done()
            with flight.follow() as follower:
                await writing
                await sink.write(b"y")
                assert await follower.read() == b"xy" == client.got


async def test_a_leader_far_behind_its_followers_is_dropped_and_they_go_on():
    with Flights().lead(KEY) as flight, flight.follow() as follower:
        sink = LeaderSink(client := Client(), flight, ModelId("large"))
        for _ in range(12):
            await sink.write(b"x" * 100_000)
            await follower.read()
        assert (client.is_cut, flight.is_orphan, len(client.got)) == (True, True, 1_100_000)
        flight.land(LANDED)
