"""How many lives the gateway is given, and that they are lived only when asked for: `-m crash`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=50, help="How many times the gateway is killed.")
    parser.addoption("--kill-seed", type=int, default=20261121, help="Of the moments at which it is killed.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "crash" in config.getoption("markexpr"):
        return
    dear = [item for item in items if item.get_closest_marker("crash")]
    items[:] = [item for item in items if item not in dear]
    config.hook.pytest_deselected(items=dear)
