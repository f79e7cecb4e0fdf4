"""Beginning to serve with several workers: they are started first, the supervisor is imported while they import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.ledger.store_process import StoreProcess
from gateway.listening import listen
from gateway.settings import environment
from gateway.workers.processes import start_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.children import Child
    from gateway.source import PolicySource
    from policies.schema import Policy


class WorkerUnfit(Exception):
    """A worker could not begin; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be served: the policy, its text for the workers, and where it came from."""

    policy: Policy
    text: str
    source: PolicySource
    log_level: str


def serve_with_workers(
    policy: Policy, text: str, source: PolicySource, *, log_level: str, on_ready: Callable[[str], None]
) -> None:
    """Serve a policy with several workers until SIGINT or SIGTERM; see `gateway.serve.serve`.

    Args:
        policy: a loaded policy, with more than one worker.
        text: what it was loaded from: every worker, started now or later, has the same.
        source: where that came from, to be read again at SIGHUP; relative paths start there.
        log_level: of the workers' logs too.
        on_ready: called with the base URL once all workers answer.

    Raises:
        PortUnavailable: the policy's address is taken or not allowed.
        LedgerError: the storage folder cannot be used.
        WorkerUnfit: a worker could not begin.
    """
    listening = listen(policy.server.host, policy.server.port)
    hatched: list[Child] = []
    store = StoreProcess.hatched(environment())
    try:
        while len(hatched) < policy.server.workers:
            hatched.append(start_worker(listening, environment()))
        from gateway.workers.supervisor import supervise

        supervise(
            Job(policy=policy, text=text, source=source, log_level=log_level),
            listening,
            hatched,
            store,
            on_ready=on_ready,
        )
    finally:
        store.discard()
        for worker in hatched:
            worker.discard()
        listening.close()
