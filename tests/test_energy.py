"""What is booked of meters that are looked at now and then."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from backends.energy import MetersUnavailable
from gateway.compose import epoch_of
from gateway.energy import EnergyWatch, metering
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.report import Books
from gateway.ledger.rows import EnergyRow
from policies.loader import parse_policy
from policies.schema import Policy
from tests.backends.fakes import NOON, OwnClock

MACHINES: dict[tuple[str, str], tuple[int | str, ...]] = {("gpu", "a"): (0, 1), ("gpu", "b"): (2,)}
POLICY = """
version: 1
models: {m: {backend: vllm, name: m, pool: gpu}}
pools:
  gpu:
    endpoints: [http://a, http://b]
    usd_per_hour: 3.6
    throughput: {input_tokens_per_s: 1, output_tokens_per_s: 1}
    replicas: [{endpoint: http://b, gpus: [2], usd_per_hour: 1.8, spot: true}]
routes: [{name: all, ladder: [m]}]
"""


class FakeMeters:
    """Cards whose meters stand where they are set; one that is not there cannot be read."""

    def __init__(self, **drawn: int) -> None:
        self.drawn = {int(name[3:]): joules * 1000 for name, joules in drawn.items()}
        self.is_closed = False

    def millijoules(self, gpu: int | str) -> int:
        if gpu not in self.drawn:
            raise MetersUnavailable(f"no gpu {gpu}")
        return self.drawn[int(gpu)]

    def close(self) -> None:
        self.is_closed = True


def a_policy() -> Policy:
    return parse_policy(POLICY, Path("p.yaml"), {}, calibrations_folder=Path("none"))


def looked(meters: FakeMeters, *looks: dict[int, int]) -> list[EnergyRow]:
    """Look once, and again after each change of the meters (joules by card), a minute apart."""
    booked: list[EnergyRow] = []
    clock = OwnClock()
    watch = EnergyWatch(meters=meters, machines=MACHINES, book=booked.append, clock=clock)
    watch.look()
    for changed in looks:
        clock.seconds += 60
        meters.drawn |= {gpu: joules * 1000 for gpu, joules in changed.items()}
        watch.look()
    return booked


def test_what_a_replicas_cards_drew_between_two_looks_is_booked():
    booked = looked(FakeMeters(gpu0=10, gpu1=20, gpu2=0), {0: 15, 1: 26})

    minute = {"since": NOON, "until": NOON + timedelta(minutes=1), "pool": "gpu"}
    assert booked == [
        EnergyRow(endpoint="a", millijoules=11_000, **minute),
        EnergyRow(endpoint="b", millijoules=0, **minute),
    ]


def test_a_meter_that_begins_anew_is_never_a_negative_number():
    booked = looked(FakeMeters(gpu0=10, gpu1=20, gpu2=0), {0: 2}, {0: 5})

    assert [row.millijoules for row in booked if row.endpoint == "a"] == [3_000]


def test_a_card_that_cannot_be_read_leaves_the_others_alone():
    booked = looked(FakeMeters(gpu0=10, gpu1=20), {2: 1}, {2: 4})

    assert [(row.endpoint, row.millijoules) for row in booked] == [("a", 0), ("a", 0), ("b", 3_000)]


async def test_measured_joules_stand_in_the_bill_of_their_replica(tmp_path: Path):
    policy, clock, meters = a_policy(), OwnClock(), FakeMeters(gpu2=1)
    ledger = JournaledLedger.open(tmp_path, clock, epoch_of(policy))
    async with metering(policy, ledger.meter, clock, open_meters=lambda: meters) as warnings:
        clock.seconds, meters.drawn[2] = 100, 501_000
    ledger.close()

    ((pool,), told) = Books(tmp_path).bill().pools, (warnings, meters.is_closed)
    first, second = pool.replicas
    assert told == ((), True)
    assert (first.energy_j, second.energy_j, second.energy) == (None, 500, "measured")
    assert (first.bill_nusd, second.bill_nusd, second.is_spot) == (10**8, 10**8 // 2, True)


async def test_a_machine_without_meters_serves_and_says_what_is_missing():
    def none() -> FakeMeters:
        raise MetersUnavailable("NVML says: Driver Not Loaded")

    booked: list[EnergyRow] = []
    async with metering(a_policy(), booked.append, OwnClock(), open_meters=none) as warnings:
        pass

    assert warnings == ("energy is not measured: NVML says: Driver Not Loaded",)
    assert booked == []


def test_the_rates_of_a_mixed_pool_are_made_of_the_mean_price():
    from gateway.prepare import price_book

    schedule = next(iter(price_book(a_policy(), NOON).schedules.values()))

    assert Decimal(schedule.at(NOON).input) / 10**15 == Decimal("2.7") / 3600
