"""Request ids: nobody has had them, and those made together lie together."""

from __future__ import annotations

from gateway.ids import RequestIds
from tests.ledger.world import NOON, OwnClock


def test_no_two_ids_are_the_same_and_all_are_of_one_shape():
    ids = [RequestIds(OwnClock()).next() for _ in range(3)]
    one = RequestIds(OwnClock())
    ids += [one.next() for _ in range(1_000)]

    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {len("req-") + 32}


def test_ids_begin_with_the_second_of_their_making_so_that_they_sort_by_time():
    clock = OwnClock()
    earlier = RequestIds(clock).next()
    clock.move(60)

    assert earlier.startswith(f"req-{int(NOON.timestamp()):08x}")
    assert earlier < RequestIds(clock).next()
