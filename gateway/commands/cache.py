"""`faregate cache`: what the caches hold, making them forget, filling them before the first users come."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from policies.schema import Policy
    from semantic_cache.seam import Store

_policy = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(__file__).parents[2] / "policies" / "default.yaml",
    show_default="policies/default.yaml",
    help="The policy that says where the caches are.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cache() -> None:
    """Look into the caches, make them forget, fill them."""


@cache.command()
@_policy
@_json
def stats(policy_file: Path, as_json: bool) -> None:
    """Count what the caches hold. The gateway may be running."""
    import dataclasses
    import json

    from semantic_cache.seam import StoreUnavailable

    store, limits = _open(policy := _load(policy_file)), policy.storage.cache
    try:
        stock = store.stock()
    except StoreUnavailable as error:
        _fail(f"the cache's server cannot be asked ({error})")
    finally:
        store.close()
    if as_json:
        counted = {name: value for name, value in dataclasses.asdict(stock).items() if name != "dropped"}
        click.echo(json.dumps({**counted, "max_entries": limits.max_entries, "max_bytes": limits.max_bytes}))
        return
    click.echo(f"{stock.entries} of {limits.max_entries} answers, {stock.with_vectors} of them in the semantic tier")
    click.echo(f"{stock.bytes / 1e6:.1f} of {limits.max_bytes / 1e6:.1f} MB")
    if stock.index:
        click.echo(f"vectors are found by {stock.index}, {stock.index_bytes / 1e6:.1f} MB")


@cache.command()
@_policy
@click.option("--key", help="The exact key, in hex.")
@click.option("--tag", help="NAME=VALUE, as the requests were tagged (x-faregate-tags).")
@click.option("--model", help="The catalog's name of the model that answered.")
@click.option("--tenant", help="Who paid for the answers.")
@click.option("--namespace", help="A shared namespace's name.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@_json
def invalidate(policy_file: Path, *, everything: bool, as_json: bool, **named: str | None) -> None:
    """Forget the stored answers that all given options name.

    A running gateway serves them no more from this moment on. An answer that it is just making is not known here:
    POST /admin/cache/invalidate, on the gateway itself, keeps those out, too.
    """
    import json

    from pydantic import ValidationError

    from gateway.side_cache import Invalidation
    from semantic_cache.seam import StoreUnavailable

    policy = _load(policy_file)
    try:
        wanted = Invalidation.model_validate({**named, "everything": everything or None})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip() for each in error.errors())
        raise click.UsageError(said.replace("everything: true", "--all")) from error
    store = _open(policy)
    try:
        dropped = store.drop(wanted.selector())
    except StoreUnavailable as error:
        _fail(f"the cache's server cannot be asked ({error}); what was to be forgotten may still be there")
    finally:
        store.close()
    click.echo(json.dumps({"dropped": dropped}) if as_json else f"{dropped} answers forgotten")


@cache.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--url", default="http://127.0.0.1:4000", show_default=True, help="The running gateway.")
@click.option("--key", envvar="FAREGATE_API_KEY", required=True, help="A tenant's key. [env: FAREGATE_API_KEY]")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at once.")
@_json
def warm(file: Path, url: str, key: str, parallel: int, as_json: bool) -> None:
    """Ask a running gateway every request of FILE, so that its caches have the answers; they are paid for as always.

    FILE has one request body of /v1/chat/completions a line, as JSON. A body without a temperature is asked at 0, since
    routes keep no others unless their policy says so. The exit status is 1 when any request failed.
    """
    import json

    from gateway.warming import WarmingError, read_requests, warm_up

    try:
        done = warm_up(read_requests(file), url=url, key=key, parallel=parallel)
    except WarmingError as error:
        _fail(str(error))
    if as_json:
        click.echo(json.dumps({"answered": done.answered, "cached": done.cached, "failed": len(done.failures)}))
    else:
        click.echo(f"{done.answered} answered, {done.cached} were in the caches already, {len(done.failures)} failed")
    for failure in done.failures[:10]:
        click.echo(f"faregate: {failure}", err=True)
    sys.exit(1 if done.failures else 0)


def _load(file: Path) -> Policy:
    from gateway.settings import environment
    from policies.errors import PolicyError
    from policies.loader import load_policy

    try:
        return load_policy(file, environment())
    except PolicyError as error:
        _fail(str(error))


def _open(policy: Policy) -> Store:
    from gateway.ledger.errors import FolderUnusable
    from gateway.prepare import PolicyUnusable
    from gateway.stores import open_store

    if not policy.storage.cache.is_shared and not policy.storage.folder.is_dir():
        _fail(f"there is no folder {policy.storage.folder}; start the gateway once, or name its policy with --policy")
    try:
        return open_store(policy)
    except (FolderUnusable, PolicyUnusable) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    click.echo(f"faregate: {message}", err=True)
    sys.exit(1)
