"""Single rows of what was served, as the command lists them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from backends.words import JsonValue
from gateway.cli import main
from gateway.ledger.rows import TOKENS
from tests.served.world import a_policy, serving
from tests.upstream import Upstream, says

NAMED = ["request_id", "attempt", "client_request_id", "upstream_response_id", *TOKENS, "cost_nano_usd"]
SEARCHED = {"prompt_tokens": 7, "completion_tokens": 3, "server_tool_use": {"web_search_requests": 2}}


def listed(folder: Path, by: str, form: str) -> str:
    window = ["--since", "2020-01-01", "--until", "2039-01-01"]
    done = CliRunner().invoke(main, ["report", "--folder", str(folder), "--by", by, "--format", form, *window])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("by", ["attempt", "request"])
async def test_what_was_served_is_listed_with_its_ids_tokens_cost_and_provenance(tmp_path: Path, by: str):
    script = {"known": says("A cat."), "searched": says("A dog.", tells_usage=False, fields={"usage": SEARCHED})}
    async with Upstream(script) as upstream, serving(tmp_path, a_policy([upstream.url])) as served:
        known = await served.ask("known", headers={"x-request-id": "client-7"})
        searched = await served.ask("searched")
        charges = (await served.rows_of(known, searched)).charges

        metrics = (await served.send("/metrics", method="GET")).body.decode()
        rows: list[dict[str, JsonValue]] = json.loads(listed(served.folder, by, "json"))
        table = list(csv.DictReader(io.StringIO(listed(served.folder, by, "csv"))))

    assert [list(row)[: len(NAMED)] for row in rows] == [NAMED, NAMED]
    by_id = {row["request_id"]: row for row in rows}
    first, second = (by_id[seen.headers["x-request-id"]] for seen in (known, searched))
    assert (first["client_request_id"], first["attempt"]) == ("client-7", 0)
    assert first["upstream_response_id"] == known.json["id"]
    assert (first["cost_nano_usd"], first["cost_provenance"]) == (charges[0]["cost_nusd"], "priced")
    assert (first["input_provenance"], first["output_provenance"]) == ("provider", "provider")
    assert (second["cost_nano_usd"], second["cost_provenance"], second["web_searches"]) == (None, "unknown", 2)
    assert sorted(row["cost_nano_usd"] for row in table) == ["", str(charges[0]["cost_nusd"])]
    assert 'faregate_unknown_cost_charges_total{kind="answer",model="large"} 1.0' in metrics
