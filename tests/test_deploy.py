"""What `deploy/` holds is well-formed and fits the gateway; no container is started."""

import subprocess
import sys
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from backends.clock import SystemClock
from gateway.prepare import lanes, price_book
from policies.loader import load_policy
from policies.schema import Policy

Services: TypeAlias = dict[str, dict[str, list[str]]]

_DEPLOY = Path(__file__).parent.parent / "deploy"
_BIN = Path(sys.executable).parent


@pytest.fixture
def policy() -> Policy:
    return load_policy(_DEPLOY / "policy.yaml", {"SMALL_USD_PER_HOUR": "0.70"})


@pytest.fixture
def services() -> Services:
    services: Services = YAML(typ="safe").load(_DEPLOY / "compose.yaml")["services"]
    return services


def test_the_policy_has_a_price_for_every_model_and_a_way_for_every_route(policy: Policy):
    book = price_book(policy, SystemClock().now())

    assert set(book.schedules) == {"small", "large"}
    assert set(lanes(policy, book, SystemClock())) == {"default"}


def test_the_policy_takes_prices_from_the_environment(policy: Policy):
    assert [str(pool.usd_per_hour) for pool in policy.pools.values()] == ["0.70", "1.80"]


def test_the_policy_speaks_of_the_servers_that_compose_starts(policy: Policy, services: Services):
    for model in policy.models.values():
        for endpoint in policy.pools[model.pool].endpoints:
            server = services[urlsplit(endpoint).hostname]
            assert server["command"][0] == model.name
            assert f"--max-model-len={model.context_tokens}" in server["command"]


def test_the_policy_keeps_its_books_on_the_volume(policy: Policy, services: Services):
    assert f"data:{policy.storage.folder}" in services["gateway"]["volumes"]


def test_compose_publishes_the_port_that_the_policy_serves_on_loopback_only(policy: Policy, services: Services):
    assert services["gateway"]["ports"] == [f"127.0.0.1:{policy.server.port}:{policy.server.port}"]


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command: list[str]):
    done = subprocess.run([_BIN / command[0], *command[1:]], cwd=_DEPLOY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
