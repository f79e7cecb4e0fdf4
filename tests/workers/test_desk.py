"""Who leads among workers: one claim at a time, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.desk import LeadDesk

ONE, TWO, THREE = (0, 1), (1, 1), (2, 1)


def a_race() -> LeadDesk:
    desk = LeadDesk()
    assert desk.claim(ONE, "k") == [(ONE, True)]
    assert desk.claim(TWO, "k") == desk.claim(THREE, "k") == []
    return desk


def test_each_key_has_its_own_lead():
    assert a_race().claim((1, 2), "other") == [((1, 2), True)]


def test_when_the_answer_is_stored_all_go_on_and_the_next_claim_leads():
    desk = a_race()
    assert desk.let_go(ONE, is_stored=True) == [(TWO, False), (THREE, False)]
    assert desk.claim((1, 7), "k") == [((1, 7), True)]


def test_when_it_failed_the_first_that_waits_leads():
    desk = a_race()
    assert desk.let_go(ONE, is_stored=False) == [(TWO, True)]
    assert desk.let_go(TWO, is_stored=True) == [(THREE, False)]


def test_who_waits_no_longer_is_not_told_anything():
    desk = a_race()
    assert desk.let_go(TWO, is_stored=False) == []
    assert desk.let_go(ONE, is_stored=False) == [(THREE, True)]
    assert desk.let_go(ONE, is_stored=True) == []


def test_a_worker_that_is_gone_leads_nothing_and_waits_for_nothing():
    desk = a_race()
    assert desk.claim((0, 2), "k") == []
    assert desk.part(0) == [(TWO, True)]
    assert desk.let_go(TWO, is_stored=True) == [(THREE, False)]


PLACES = st.tuples(st.integers(0, 2), st.integers(0, 30))


@given(st.lists(st.tuples(st.sampled_from(["claim", "stored", "failed", "part"]), PLACES, st.sampled_from("ab"))))
def test_at_most_one_leads_and_all_who_wait_are_told_in_the_end(steps: list[tuple[str, tuple[int, int], str]]):
    desk, keys, leads = LeadDesk(), dict[tuple[int, int], str](), set[tuple[int, int]]()
    for step, place, key in steps:
        if step == "claim" and place not in keys:
            keys[place] = key
            told = desk.claim(place, key)
        elif step == "part":
            keys = {each: key for each, key in keys.items() if each[0] != place[0]}
            leads = {each for each in leads if each[0] != place[0]}
            told = desk.part(place[0])
        elif step != "claim":
            told = desk.let_go(place, is_stored=step == "stored")
            keys.pop(place, None)
            leads.discard(place)
        else:
            continue
        for each, is_lead in told:
            leads |= {each} if is_lead else set()
            if not is_lead:
                del keys[each]
        assert sorted(keys[each] for each in leads) == sorted(set(keys.values()))
