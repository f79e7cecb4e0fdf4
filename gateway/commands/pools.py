"""`faregate pools`: what the policy's own machines do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.fit import Sample


@click.group()
def pools() -> None:
    """Measure the pools of the policy."""


@pools.command()
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy file (YAML).",
)
@click.option("--pool", "name", help="Which pool; default: all.")
@click.option("--over", type=click.IntRange(1, 86_400), default=60, show_default=True, help="Seconds to watch.")
@click.option("--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between looks.")
def fit(policy_file: Path | None, name: str | None, over: int, every: float) -> None:
    """Watch the pools' vLLM servers at work and print the `throughput` their rates should be made of.

    Run it under the usual load. Nothing is changed: put the lines into the policy, whose price book then has another
    digest, which every charge names; what was charged before stays as it was.
    """
    from datetime import UTC, datetime

    from backends.scrape import MetricsUnreadable
    from gateway.commands.asked import fail, load
    from gateway.fit import FitImpossible, as_yaml
    from gateway.fit import fit as fitted

    policy = load(policy_file)
    if name is not None and name not in policy.pools:
        fail(f'there is no pool "{name}"; the policy has: {", ".join(policy.pools) or "none"}')
    is_measured = True
    for pool, facts in policy.pools.items():
        if name not in {None, pool}:
            continue
        try:
            samples = _watch([str(each) for each in facts.endpoints], over, every)
            click.echo(as_yaml(pool, fitted(samples), day=f"{datetime.now(UTC):%Y-%m-%d}"), nl=False)
        except (MetricsUnreadable, FitImpossible) as error:
            click.echo(f"faregate: pool {pool}: {error}", err=True)
            is_measured = False
    sys.exit(0 if is_measured else 1)


def _watch(endpoints: Sequence[str], over_s: int, every_s: float) -> list[list[Sample]]:
    """Return each endpoint's samples, oldest first."""
    import time
    from contextlib import ExitStack

    from backends.scrape import Scraper
    from gateway.fit import read_sample

    with ExitStack() as open_ones:
        scrapers = [open_ones.enter_context(Scraper(endpoint)) for endpoint in endpoints]
        samples: list[list[Sample]] = [[] for _ in scrapers]
        end = time.monotonic() + over_s
        while True:
            for scraper, own in zip(scrapers, samples, strict=True):
                own.append(read_sample(scraper.read(), time.monotonic()))
            left = end - time.monotonic()
            if left <= 0:
                return samples
            time.sleep(min(every_s, left))
