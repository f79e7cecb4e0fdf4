"""The wall: every fault of an upstream, through the whole gateway on real sockets, streamed and not.

A case (`cases`) is what an upstream does, as bytes and silences (`server`, `words`), and what its client must see and
its tenant must pay. Every case has a model and an endpoint of its own. All of them are played at once (`runs`), and
then looked at one by one: the status, text, error, headers and end that the client saw; the charge's kind, tokens and
provenance; the request's row; that the upstream's connection is closed wherever no complete answer came; and that no
task, hold, key or prompt is left anywhere. Each transport of `tests.transports` has to pass all of it.

    group        cases   runs   what the upstream does
    SILENT           9     15   listens to nobody; stalls before, within and after headers, between tokens, at its end
    CUTS            12     18   closes or resets: before the first byte, in a token, in a character, before `[DONE]`
    UNFINISHED      13     15   ends its framing cleanly without having finished, HTTP/1.0 included
    NO_ANSWERS      27     44   error objects, HTML, nothing, nonsense, broken framing, endless headers and events
    STATUSES        16     32   429, 5xx, 401, 403, 4xx, with and without Retry-After, with the operator's key in them
    REDIRECTS        5     10   301, 302, 303, 307, 308
    FORMS           23     31   a good answer in every form that SSE and HTTP allow, and with things around it
    USAGES          11     15   usage omitted, null, zero, partial, on every chunk, in a `choices: []` chunk
    PLAIN           10     12   plain JSON in a stream's place
    FIELDS           3      4   unknown fields, 20-digit integers, 1e-7, -0.0, odd white space
    SURFACES         8     10   legacy completions and embeddings, good and broken
    CODINGS          7     14   gzip and deflate though identity was asked for, broken, truncated, a bomb

    CASES          144    220   all of them, and all pass

`test_the_table_is_the_cases` counts them. Hang-ups are in `test_hang_ups`, slow readers and large answers in
`test_sizes`, what clients may and may not send in `tests/served`; retries and breakers have tests of their own.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from tests.served.world import Served, serving
from tests.transports import TRANSPORTS
from tests.upstream import unused_url
from tests.wall import cases
from tests.wall.cases import CASES
from tests.wall.runs import HASTY, Run, everything_logged, open_holds, play_all, policy_of, runs_of, upstream_of
from tests.wall.server import Connection
from tests.wall.words import KEY

IDS = [run.id for run in runs_of(CASES)]


@dataclass(kw_only=True, repr=False)
class Played:
    """All runs, and what was left when they were over."""

    runs: dict[str, Run]
    paths: list[str]
    log: list[str]
    holds: int = 0
    in_flight: int = 0
    tasks: list[str] = field(default_factory=list)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play everything once; each test looks at its part."""
    runs = runs_of(CASES)
    hasty, patient = ([run for run in runs if run.case.is_hasty is kind] for kind in (True, False))
    with everything_logged() as log:
        async with upstream_of(runs) as upstream:
            result = Played(runs={run.id: run for run in runs}, paths=[], log=log)
            for some, changes in ((patient, {}), (hasty, {"timeouts": HASTY})):
                policy = policy_of(some, upstream.url, unused_url(), server={"transport": request.param}, **changes)
                async with serving(tmp_path_factory.mktemp("wall"), policy) as gateway:
                    await _play(gateway, some, result)
            result.paths = [received.path for received in upstream.requests]
    return result


async def _play(gateway: Served, runs: list[Run], result: Played) -> None:
    before = asyncio.all_tasks()
    await play_all(gateway, runs)
    result.tasks += [repr(task) for task in await _left_open(runs, before)]
    result.holds += open_holds(gateway)
    parts = gateway.opened.gateway.parts
    result.in_flight += gateway.opened.gateway._in_flight
    result.in_flight += sum(model.backend.in_flight for model in parts.catalog.values())


async def _left_open(runs: list[Run], before: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    """Give what was closed the moment that closing takes on a loaded event loop; return the tasks that stay."""
    left: set[asyncio.Task[object]] = set()
    for _ in range(100):
        left = {task for task in asyncio.all_tasks() - before if "Listener._serve" not in repr(task)}
        if not left and all(connection.closed.is_set() for run in runs for connection in broken_connections(run)):
            break
        await asyncio.sleep(0.05)
    return left


def broken_connections(run: Run) -> list[Connection]:
    """Return the connections on which no complete answer came: they may not be left open."""
    is_whole = all(isinstance(step, bytes) for step in run.script) and not run.expected.is_cut
    return [] if is_whole else run.connections


def test_the_table_is_the_cases():
    table = re.findall(r"^ {4}([A-Z_]{3,}) +(\d+) +(\d+) ", __doc__ or "", flags=re.MULTILINE)
    groups = {name: getattr(cases, name) for name, _, _ in table}
    assert [(name, str(len(groups[name])), str(len(runs_of(groups[name])))) for name in groups] == table
    assert sum(map(len, groups.values())) == 2 * len(CASES)


@pytest.mark.parametrize("name", IDS)
def test_the_client_sees_an_answer_or_an_error_and_never_hangs(played: Played, name: str):
    run = played.runs[name]
    assert not run.has_hung
    assert (run.status, run.is_cut) == (run.expected.status, run.expected.is_cut)
    if run.status != 200:
        check_refusal(run)
    elif run.is_stream:
        check_stream(run)
    else:
        assert run.text == run.expected.text
        assert run.headers["content-type"] == "application/json"
    check_words(run)


def check_refusal(run: Run) -> None:
    assert run.headers["content-type"] == "application/json"
    error = json.loads(run.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"] or "") == run.expected.code
    assert run.headers.get("retry-after") == run.expected.headers.get("retry-after", run.headers.get("retry-after"))


def check_stream(run: Run) -> None:
    """An answer has one beginning, one end and one `[DONE]`; a cut one has an error event and neither."""
    assert run.headers["content-type"].startswith("text/event-stream")
    assert run.text == run.expected.text
    finishes = [c["finish_reason"] for e in run.events for c in e.get("choices", ()) if c.get("finish_reason")]
    assert run.blocks.count("data: [DONE]") == (not run.expected.is_cut)
    assert len([1 for e in run.events for c in e.get("choices", ()) if c.get("delta", {}).get("role")]) <= 1
    if run.expected.is_cut:
        assert run.events[-1]["error"]["code"] == run.expected.code
        assert set(run.events[-1]["error"]) == {"message", "type", "param", "code"}
    else:
        assert run.blocks[-1] == "data: [DONE]"
        assert len(finishes) == 1
        assert all("error" not in event for event in run.events)


def check_words(run: Run) -> None:
    """What must be there is, and nothing else of the upstream's."""
    assert [part for part in run.expected.has if part not in run.body] == []
    assert [part for part in run.expected.lacks if part in run.body] == []
    assert KEY.encode() not in run.body
    assert KEY not in str(dict(run.headers))
    assert "theirs" not in str(dict(run.headers))


@pytest.mark.parametrize("name", IDS)
def test_the_request_and_what_it_cost_are_booked(played: Played, name: str):
    run, expected = played.runs[name], played.runs[name].expected.booked
    check_row(run)
    if expected is None:
        assert (run.charges, run.request["cost_nusd"]) == ([], 0)
        return
    assert {(c["kind"], c["output_provenance"]) for c in run.charges} == {(expected.kind, expected.provenance)}
    assert all(c["input_tokens"] > 0 and c["cost_nusd"] > 0 for c in run.charges)
    assert expected.output in {None, *(c["output_tokens"] for c in run.charges)}
    assert expected.kind != "answer" or expected.output is not None or run.charges[-1]["output_tokens"] > 0
    assert run.request["cost_nusd"] == sum(c["cost_nusd"] for c in run.charges)


def check_row(run: Run) -> None:
    """The request's row says how it ended."""
    expected = (200, None) if run.expected.code is None else (run.status, run.expected.code or None)
    if run.expected.is_cut:
        expected = ({"upstream_timeout": 504}.get(run.expected.code or "", 502), run.expected.code)
    assert (run.request["status"], run.request["error_code"]) == expected


@pytest.mark.parametrize("name", IDS)
def test_a_connection_without_a_complete_answer_is_closed(played: Played, name: str):
    assert all(connection.closed.is_set() for connection in broken_connections(played.runs[name]))


def test_nothing_is_left_open(played: Played):
    assert (played.holds, played.in_flight, played.tasks) == (0, 0, [])


def test_no_redirect_is_followed(played: Played):
    assert all(path.startswith("/wall-") for path in played.paths)


def test_an_upstream_sends_no_more_than_the_limits_let_it(played: Played):
    most = max(connection.sent_bytes for run in played.runs.values() for connection in run.connections)
    assert most < 64 * 2**20


def test_the_operators_key_and_prompts_are_in_no_log_and_no_row(played: Played):
    assert len(played.log) > len(IDS) / 2
    said = "\n".join(played.log) + str([(run.request, run.charges) for run in played.runs.values()])
    assert KEY not in said
    assert "secret detail" not in said
    assert "What is it?" not in said
