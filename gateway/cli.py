"""The command `faregate`. Each command imports what it needs, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from gateway.commands.budgets import budgets
from gateway.commands.cache import cache
from gateway.commands.content import content
from gateway.commands.evaluate import evaluate
from gateway.commands.export import export
from gateway.commands.ledger import ledger
from gateway.commands.pools import pools
from gateway.commands.promises import verdicts_group
from gateway.commands.quality import train
from gateway.commands.reconcile import reconcile
from gateway.commands.reload import reload
from gateway.commands.report import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.source import PolicySource
    from policies.schema import Policy, Route

DEFAULT_POLICY = Path(__file__).parent.parent / "policies" / "default.yaml"


_policy = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_POLICY,
    show_default="policies/default.yaml",
    help="The policy file (YAML).",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="faregate", prog_name="faregate")
def main() -> None:
    """Make every LLM request as cheap as it can be at the quality you state, and prove it with a bill.

    Start with `faregate check`, then `faregate keys create`, then `faregate serve`. `faregate demo` shows all of it on
    two small real models on this machine.
    """


@main.command()
@_policy
@click.option("--host", help="Listen here instead of the policy's server.host.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Listen here instead of the policy's server.port; 0 takes a free port.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Answer with so many processes instead of the policy's server.workers; best one a core.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(policy_file: Path, host: str | None, port: int | None, workers: int | None, log_level: str) -> None:
    """Run the gateway on a policy.

    Clients use the printed base URL with a key of `faregate keys create`. SIGTERM and Ctrl-C finish the requests in
    flight, then stop. A second gateway on the same storage folder is refused.
    """
    from gateway.settings import keep_to_one_blas_thread

    keep_to_one_blas_thread()  # before anything imports numpy

    from gateway.ledger.errors import LedgerError
    from gateway.listening import PortUnavailable
    from gateway.log import set_up_logging
    from gateway.prepare import PolicyUnusable
    from gateway.source import PolicySource
    from policies.errors import PoliciesError

    set_up_logging(level=log_level)
    source = PolicySource(file=policy_file, host=host, port=port, workers=workers)
    policy, text = _read(source)

    def on_ready(url: str) -> None:
        click.echo(f"faregate serves {policy_file} at {url}/v1", err=True)

    try:
        _run(policy, text, source, log_level=log_level, on_ready=on_ready)
    except (PortUnavailable, PolicyUnusable, PoliciesError, LedgerError, OSError) as error:
        _fail(str(error))


def _run(policy: Policy, text: str, source: PolicySource, *, log_level: str, on_ready: Callable[[str], None]) -> None:
    """Serve in this process, or with several workers."""
    if policy.server.workers > 1:
        from gateway.workers.begin import WorkerUnfit, serve_with_workers

        try:
            serve_with_workers(policy, text, source, log_level=log_level, on_ready=on_ready)
        except WorkerUnfit as error:
            _fail(str(error))
        return
    from gateway.ledger.store_process import StoreProcess
    from gateway.settings import environment

    store = StoreProcess.hatched(environment())  # before the rest is imported, which takes as long as its own
    try:
        from gateway.serve import serve as run

        run(policy, source, environ=environment(), on_ready=on_ready, store=store)
    finally:
        store.discard()


@main.command()
@_policy
@_json
def check(policy_file: Path, as_json: bool) -> None:
    """Check a policy without starting it: keys, references, prices, calibrations.

    Every mistake is reported at once with its line and what is allowed; the exit status is 1 if there is one.
    """
    from gateway.check import check_policy

    policy = _load(policy_file)
    sys.exit(check_policy(policy, policy_file, as_json=as_json))


@main.group()
def keys() -> None:
    """Make, list and revoke the API keys of the policy's tenants, and admin keys.

    A key is shown once, when it is made; only its digest is kept, in keys.json of the policy's storage folder. A
    running gateway sees changes at once. A tenant may have several keys, so that they can be rotated.
    """


@keys.command("create")
@_policy
@click.option("--tenant", help="Whose key it is: a tenant of the policy.")
@click.option("--label", help="What it is for, to tell keys apart.")
@click.option("--admin", is_flag=True, help="Make an admin key: it opens /admin and no data path.")
@_json
def keys_create(policy_file: Path, tenant: str | None, label: str | None, admin: bool, as_json: bool) -> None:
    """Make a key and show it, once."""
    from gateway.keys_command import create_key

    if admin == (tenant is not None):
        raise click.UsageError("give either --tenant NAME or --admin")
    sys.exit(create_key(_load(policy_file), tenant=tenant, label=label, as_json=as_json))


@keys.command("list")
@_policy
@_json
def keys_list(policy_file: Path, as_json: bool) -> None:
    """List the keys, revoked ones too; never the secrets."""
    from gateway.keys_command import list_keys

    sys.exit(list_keys(_load(policy_file), as_json=as_json))


@keys.command("revoke")
@_policy
@click.argument("key_id")
def keys_revoke(policy_file: Path, key_id: str) -> None:
    """Revoke the key KEY_ID; it stops working at once."""
    from gateway.keys_command import revoke_key

    sys.exit(revoke_key(_load(policy_file), key_id))


@main.command()
@_policy
@click.option(
    "--route", "route_name", required=True, help="The route whose first rung is to be judged against its baseline."
)
@click.option(
    "--questions",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    show_default="the shipped ones",
    help="Questions with known answers, one JSON object a line: key, task, prompt, answers, schema, tools; earlier for "
    "conversations: the turns before the prompt, each with role and content.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("faregate-calibration"),
    show_default=True,
    help="Where the answers are kept; an interrupted run goes on from there.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The calibration to write.")
@click.option("--check", is_flag=True, help="Fit nothing: hold the route's present calibration against --questions.")
@click.option("--rung", help="Whose judge to fit or check, for ladders with several; the first rung's when left out.")
@click.option("--source", help="Where your questions come from, with their licence; needed with --questions.")
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="Ask nobody: fit judges by outcome records (see `faregate evaluate --help`) of all the ladder's models, whose "
    "column signal is the mean log-probability of each answer's tokens; where the route's artefact decides, choose its "
    "threshold by them, its whole plan replayed.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="With --outcomes: at which they were sampled; requests above it go to the baseline.",
)
@click.option(
    "--vectors",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --outcomes: keep the questions' embeddings here between runs (.npz).",
)
@click.option("--from-ledger", is_flag=True, help="Ask nobody: raise the threshold by the verdicts of live audits.")
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --from-ledger or --outcomes, in place of the policy's.",
)
@click.option("--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Likewise.")
@click.option(
    "--subject",
    type=click.Choice(["route", "semantic", "conversation", "tools"]),
    default="route",
    show_default=True,
    help="With --from-ledger: the route's max_loss, its semantic cache's max_error, or a kind of request, which is "
    "kept below the baseline when its own verdicts keep the route's max_loss.",
)
@click.option("--tenant", help="With --from-ledger --subject semantic: whose cache, where each tenant has its own.")
def calibrate(  # noqa: PLR0917 - as above
    policy_file: Path,
    route_name: str,
    questions: Path | None,
    work: Path,
    out: Path | None,
    check: bool,
    rung: str | None,
    source: str | None,
    outcomes: tuple[Path, ...],
    temperature: float,
    vectors: Path | None,
    from_ledger: bool,
    max_loss: float | None,
    confidence: float | None,
    subject: str,
    tenant: str | None,
) -> None:
    """Fit a route's judge to its models, and print what it can promise.

    Asks a rung (the first, or --rung) and the route's baseline every question (running, as the policy says where),
    grades the answers, and writes the calibration that `quality.calibration` names (--out FILE), or tells what the
    present one does on questions it has not seen (--check). The shipped 850 questions take about 40 minutes for two
    small models on two cores.

    With --outcomes nobody is asked: the judges of all rungs below the baseline are fitted by outcome records, and those
    of several rungs together, so that the whole ladder keeps the promise; each gets a file (OUT-RUNG.json). A route
    whose artefact decides (it has no calibrations) gets that artefact with the threshold that keeps the promise, its
    choice of where to start and its judges in; without --out it is only said what could be promised.

    With --from-ledger nobody is asked: the threshold is raised until the promise holds by the verdicts of live audits,
    which ends a breach, or it is said that no threshold keeps it.
    """
    policy = _load(policy_file)
    route = next((route for route in policy.routes if route.name == route_name), None)
    if route is None:
        _fail(f"unknown route {route_name!r}; the policy has: {', '.join(route.name for route in policy.routes)}")
    if from_ledger:
        from gateway.commands.promises import recalibrate

        sys.exit(
            recalibrate(
                policy, route_name, max_loss=max_loss, confidence=confidence, subject_name=subject, tenant=tenant
            )
        )
    if outcomes:
        from gateway.commands.outcomes import calibrate_by_outcomes
        from gateway.commands.records import Given

        given = Given(
            policy=policy,
            route=route,
            files=outcomes,
            out=out,
            max_loss=max_loss,
            confidence=confidence,
            temperature=temperature,
            source=source,
            vectors=vectors,
        )
        sys.exit(calibrate_by_outcomes(given))
    if max_loss is not None or confidence is not None:
        raise click.UsageError(
            "--max-loss and --confidence go with --from-ledger or --outcomes; artefacts hold them all"
        )
    if check == (out is not None) or (check and questions is None):
        raise click.UsageError("give either --out FILE, or --check with --questions FILE")
    if source is None and questions is not None and not check:
        raise click.UsageError("say where the questions come from with --source")
    sys.exit(_by_questions(policy, route, questions, work=work, out=out, rung=rung, source=source))


def _by_questions(
    policy: Policy,
    route: Route,
    questions: Path | None,
    *,
    work: Path,
    out: Path | None,
    rung: str | None,
    source: str | None,
) -> int:
    import asyncio

    from rich.console import Console

    _need("sklearn", extra="train")
    from backends.words import ModelId
    from gateway.calibrate import SHIPPED_QUESTIONS, SHIPPED_SOURCE, Job
    from gateway.calibrate import calibrate as run

    job = Job(
        policy=policy,
        route=route,
        questions=questions or SHIPPED_QUESTIONS,
        work=work,
        out=out,
        source=source or SHIPPED_SOURCE,
        rung=None if rung is None else ModelId(rung),
    )
    return asyncio.run(run(job, Console(stderr=True)))


@main.command()
@_json
@click.option("--keep", is_flag=True, help="Leave models and gateway running at the end, and print how to use them.")
@click.option(
    "--calibrate",
    "calibration",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of the workload, ask both models the shipped questions and write the judge's calibration here.",
)
@click.option(
    "--check-calibration",
    "fresh",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Instead of the workload, hold the shipped calibration against these questions.",
)
def demo(as_json: bool, keep: bool, calibration: Path | None, fresh: Path | None) -> None:
    """Run the main job on this machine: two real models, a gateway, a mixed workload, the bill.

    Fetches the models once (1.6 GB, into the user's cache folder), starts them and a gateway on free ports, sends the
    workload through the official OpenAI client, and stops everything it started, on Ctrl-C too.
    """
    _need("openai", "xllamacpp", extra="demo")
    from gateway.demo.run import run_calibration, run_demo

    if calibration is not None or fresh is not None:
        _need("sklearn", extra="train")
        if calibration is not None and fresh is not None:
            raise click.UsageError("give one of --calibrate and --check-calibration")
        sys.exit(run_calibration(calibration, fresh=fresh))
    sys.exit(run_demo(as_json=as_json, keep=keep))


for command in (
    budgets,
    cache,
    content,
    evaluate,
    export,
    ledger,
    pools,
    reconcile,
    reload,
    report,
    train,
    verdicts_group,
):
    main.add_command(command)


def _load(file: Path) -> Policy:
    from gateway.source import PolicySource

    return _read(PolicySource(file=file))[0]


def _read(source: PolicySource) -> tuple[Policy, str]:
    """Return a policy, and the text it was made of."""
    from policies.errors import PolicyError

    try:
        return source.read()
    except PolicyError as error:
        _fail(str(error))


def _need(*modules: str, extra: str) -> None:
    import importlib.util

    if any(importlib.util.find_spec(module) is None for module in modules):
        _fail(f"this command needs more packages; install them with `pip install 'faregate[{extra}]'`")


def _fail(message: str) -> NoReturn:
    click.echo(f"faregate: {message}", err=True)
    sys.exit(1)
