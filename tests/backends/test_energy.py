"""The meters of graphics cards, through a stand-in for NVIDIA's library and through the library itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typing_extensions import override

from backends.energy import Library, MetersUnavailable, NvmlMeters, load_library


class NoSuchCard(Exception):
    """What the stand-in raises."""


class Stand(Library):
    """A machine with one card."""

    NVMLError = NoSuchCard

    def __init__(self) -> None:
        self.drawn = 5_000
        self.shut = 0

    @override
    def nvmlInit(self) -> None: ...

    @override
    def nvmlShutdown(self) -> None:
        self.shut += 1

    @override
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        if index:
            raise NoSuchCard("Not Found")
        return "card"

    @override
    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> object:
        return self.nvmlDeviceGetHandleByIndex(0 if uuid == b"GPU-1" else 1)

    @override
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        assert handle == "card"
        return self.drawn


def test_a_card_is_read_by_its_number_or_its_id():
    stand = Stand()
    meters = NvmlMeters.open(lambda: stand)

    read = [meters.millijoules(0), meters.millijoules("GPU-1")]
    stand.drawn = 7_000

    assert (read, meters.millijoules(0)) == ([5_000, 5_000], 7_000)


def test_a_card_that_is_not_there_is_named():
    with pytest.raises(MetersUnavailable, match=r"gpu 1 cannot be read: NVML says: Not Found; `nvidia-smi -L`"):
        NvmlMeters.open(Stand).millijoules(1)


def test_the_library_is_let_go_once():
    stand = Stand()
    meters = NvmlMeters.open(lambda: stand)
    meters.close()
    meters.close()

    assert stand.shut == 1


def test_without_the_library_it_says_what_to_install():
    def load() -> Library:
        raise ImportError("No module named 'pynvml'")

    with pytest.raises(MetersUnavailable, match=r"install faregate\[gpu\]"):
        NvmlMeters.open(load)


def test_without_a_driver_the_real_library_says_so():
    pytest.importorskip("pynvml", reason="the extra gpu is not installed")
    open_real: Callable[[], NvmlMeters] = NvmlMeters.open
    try:
        load_library().nvmlInit()
    except load_library().NVMLError:
        with pytest.raises(MetersUnavailable, match=r"NVML says: .*run the gateway on the machine that has the cards"):
            open_real()
    else:
        load_library().nvmlShutdown()
        meters = open_real()
        assert meters.millijoules(0) > 0
        meters.close()
