"""What holds for all tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.transports import SERVED, TRANSPORTS

# A deadline measures the machine, not the code: on two busy cores the first example of a test can take a second.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--transport", choices=sorted(TRANSPORTS), default="wire", help="the upstream client of gateways under test"
    )


def pytest_configure(config: pytest.Config) -> None:
    SERVED["transport"] = config.getoption("--transport")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is about sockets on both event loops: servers have uvloop, commands and these tests asyncio's own."""
    own = {"asyncio": asyncio.new_event_loop}
    return own | {"uvloop": uvloop.new_event_loop} if item.path.name in {"test_transport.py", "test_wire.py"} else own
