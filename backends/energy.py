"""What this machine's graphics cards have drawn, by their own meters: NVIDIA's management library (NVML).

The library comes with the driver, its Python face with the extra `gpu`; neither is needed unless a policy names cards.
The meter counts millijoules since the driver was loaded, on cards from Volta on.

Source: NVML API reference, `nvmlDeviceGetTotalEnergyConsumption`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from backends.errors import FloorError

if TYPE_CHECKING:
    from collections.abc import Callable


class MetersUnavailable(FloorError):
    """The cards' meters cannot be read; the message says why and what to do."""


class Meters(Protocol):
    """The meters of some cards."""

    def millijoules(self, gpu: int | str) -> int:
        """Return what a card has drawn so far; only differences mean anything.

        Raises:
            MetersUnavailable: there is no such card, or it has no meter.
        """
        ...

    def close(self) -> None:
        """Let the library go; closing twice is closing once."""
        ...


class Library(Protocol):
    """The part of `pynvml` that is used; cards are foreign handles."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: D102, N802 - the library's names
    def nvmlShutdown(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> object: ...  # noqa: D102, N802
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int: ...  # noqa: D102, N802


def load_library() -> Library:
    """Return NVML's Python face.

    Raises:
        ImportError: it is not installed.
    """
    return cast("Library", importlib.import_module("pynvml"))


class NvmlMeters:
    """Implements `Meters`; make it with `open`, and close it. Any thread may read, one at a time."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._handles: dict[int | str, object] = {}
        self._is_closed = False

    @classmethod
    def open(cls, load: Callable[[], Library] = load_library) -> NvmlMeters:
        """Open the library.

        Raises:
            MetersUnavailable: it is not installed, or finds no driver.
        """
        try:
            library = load()
        except ImportError as error:
            raise MetersUnavailable(
                "nvidia-ml-py is not installed; install faregate[gpu], or delete `gpus` from the policy's replicas"
            ) from error
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise MetersUnavailable(
                f"NVML says: {error}; run the gateway on the machine that has the cards, with NVIDIA's driver, "
                "or delete `gpus` from the policy's replicas"
            ) from error
        return cls(library)

    def millijoules(self, gpu: int | str) -> int:
        """Return what a card has drawn so far; see `Meters`."""
        library = self._library
        try:
            handle = self._handles.get(gpu)
            if handle is None:
                handle = self._handles[gpu] = (
                    library.nvmlDeviceGetHandleByIndex(gpu)
                    if isinstance(gpu, int)
                    else library.nvmlDeviceGetHandleByUUID(gpu.encode())
                )
            return int(library.nvmlDeviceGetTotalEnergyConsumption(handle))
        except library.NVMLError as error:
            raise MetersUnavailable(
                f"the meter of gpu {gpu} cannot be read: NVML says: {error}; `nvidia-smi -L` lists the cards"
            ) from error

    def close(self) -> None:
        """Let the library go."""
        if not self._is_closed:
            self._is_closed = True
            self._handles.clear()
            self._library.nvmlShutdown()
