"""How long reports take on a large ledger: makes one of synthetic rows, then asks it a month by tenant and model.

    nice -n 10 .venv/bin/python load_tests/ledger_scale.py --charges 10000000 --folder /tmp/scale

Rows are inserted in bulk with the triggers off, and the rollups made anew at the end, as `rebuild` does; the
ledger is the gateway's own in every other respect. A folder that holds a ledger already is asked as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.ledger.reports.answer import ask, opened
from gateway.ledger.reports.question import Question, dimensions
from gateway.ledger.rollups import mismatches, rebuild
from gateway.ledger.store import FILE_NAME, Store

BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
MONTH = timedelta(days=31)
TENANTS = [f"team-{number:02}" for number in range(20)]
MODELS = ["small", "medium", "large", "gpt-5", "claude"]
FEATURES = ["chat", "search", "summary", "code"]
PATHS = ["small", "small", "small", "small>large", "large", "gpt-5", "medium"]
RATES = json.dumps({"input": 50, "cached_input": 5, "cache_write": 62, "output": 200, "reasoning": 200, "source": "x"})
BATCH = 20_000


def main() -> None:
    """Make the ledger where there is none, then ask it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--charges", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--verify", action="store_true", help="also prove the rollups equal to the rows")
    parser.add_argument("--export", action="store_true", help="also export FOCUS and state the memory it took")
    options = parser.parse_args()
    if not (options.folder / FILE_NAME).exists():
        make(options.folder, options.charges)
    tell("size", f"{(options.folder / FILE_NAME).stat().st_size / 1e9:.2f} GB")
    questions(options.folder)
    if options.verify:
        verify(options.folder)
    if options.export:
        export(options.folder)


def make(folder: Path, charges: int) -> None:
    """Fill a new ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    Store(folder).close()
    db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -262144")
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    started = time.perf_counter()
    fill(db, charges)
    tell("rows", f"{charges} charges in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    db.execute("BEGIN")
    rebuild(db)
    db.execute("COMMIT")
    tell("rollups", f"made in {time.perf_counter() - started:.0f} s")
    for _, sql in triggers:
        db.execute(sql)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def fill(db: sqlite3.Connection, charges: int) -> None:
    """Insert requests and their charges, evenly over a month."""
    dice = random.Random(7)  # noqa: S311 - synthetic rows
    step_us = int(MONTH / timedelta(microseconds=1)) // charges
    start_us = int(BEGIN.timestamp()) * 10**6
    made = number = 0
    while made < charges:
        asked: list[dict[str, object]] = []
        paid: list[dict[str, object]] = []
        while len(paid) < BATCH and made < charges:
            request, attempts = one(dice, number, start_us + made * step_us)
            asked.append(request)
            paid.extend(attempts)
            made += len(attempts)
            number += 1
        db.execute("BEGIN")
        insert(db, "requests", asked)
        insert(db, "charges", paid)
        db.execute("COMMIT")


def one(dice: random.Random, number: int, at_us: int) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Return a request and its charges."""
    path = dice.choice(PATHS)
    tenant, cost = dice.choice(TENANTS), dice.randrange(1_000, 9_000_000)
    request_id = f"req_{number:024x}"
    common = {"request_id": request_id, "tenant": tenant, "key_id": f"{tenant}-{number % 3}", "epoch": 1}
    models = path.split(">")
    charges = [
        {
            **common,
            "attempt": attempt,
            "kind": "answer" if attempt == len(models) - 1 else "rejected",
            "route": "default",
            "model": model,
            "pool": "cpu" if model in {"small", "large"} else None,
            "endpoint_label": "replica-0",
            "input_tokens": cost % 4_000,
            "cached_input_tokens": cost % 700,
            "output_tokens": cost % 900,
            "input_provenance": "provider",
            "output_provenance": "provider",
            "rates": RATES,
            "price_digest": "b" * 64,
            "tier": "",
            "cost_nusd": cost,
            "cost_provenance": "priced",
            "started_at_us": at_us,
            "duration_ms": 800.0,
        }
        for attempt, model in enumerate(models)
    ]
    request = {
        **common,
        "surface": "chat/completions",
        "route": "default",
        "model_asked": "auto",
        "path": path,
        "status": 200,
        "is_stream": 0,
        "policy_digest": "p" * 64,
        "started_at_us": at_us,
        "total_ms": 900.0,
        "overhead_ms": 1.0,
        "cost_nusd": cost * len(models),
        "baseline_model": "large",
        "baseline_nusd": cost * 3,
        "baseline_low_nusd": cost * 2,
        "baseline_high_nusd": cost * 4,
        "tags": f'{{"feature":"{dice.choice(FEATURES)}"}}',
    }
    return request, charges


def insert(db: sqlite3.Connection, table: str, rows: list[dict[str, object]]) -> None:
    """Insert rows; a count that a row leaves out is 0."""
    info = db.execute(f"PRAGMA table_info({table})").fetchall()
    names = [row[1] for row in info if row[1] in rows[0] or (row[3] and row[2] == "INTEGER")]
    places = ", ".join("?" for _ in names)
    db.executemany(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})",  # noqa: S608 - names of the schema
        ([row.get(name, 0) for name in names] for row in rows),
    )


def questions(folder: Path) -> None:
    """Time a month's report, cold and warm, through the library and through the command."""
    for by, zone in (
        ("tenant,model", "UTC"),
        ("tenant,model,route,feature,day", "UTC"),
        ("tenant,model,day", "UTC"),
        ("tenant,model,day", "Europe/Berlin"),
    ):
        begin = BEGIN.replace(tzinfo=ZoneInfo(zone))
        question = Question(since=begin, until=begin + MONTH, by=dimensions(by), zone=zone)
        for turn in ("first", "second"):
            started, used = time.perf_counter(), time.process_time()
            with opened(folder) as db:
                lines = len(ask(db, question).lines)
            took, used = time.perf_counter() - started, time.process_time() - used
            tell(f"by {by}, {zone}, {turn}", f"{took:.2f} s ({used:.2f} s of CPU), {lines} lines")
    for form in ("table", "html"):
        timed_command(folder, "the bill" if form == "table" else "the HTML page", "--format", form)
    timed_command(folder, "by tenant,model as CSV", "--by", "tenant,model", "--format", "csv")


def timed_command(folder: Path, what: str, *options: str) -> None:
    """Time a month's report as a command, its start included."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "gateway", "report", "--folder", str(folder), *options]
    window = ["--since", f"{BEGIN:%Y-%m-%d}", "--until", f"{BEGIN + MONTH:%Y-%m-%d}"]
    subprocess.run([*command, *window], check=True, stdout=subprocess.DEVNULL)
    tell(f"the whole command: {what}", f"{time.perf_counter() - started:.2f} s")


def verify(folder: Path) -> None:
    """Prove the rollups, and time the same question asked of the rows."""
    question = Question(since=BEGIN, until=BEGIN + MONTH, by=dimensions("tenant,model"))
    rows = Question(since=BEGIN, until=BEGIN + MONTH, by=question.by, from_rows=True)
    with opened(folder) as db:
        started = time.perf_counter()
        same = ask(db, question).lines == ask(db, rows).lines
        tell("from the rows", f"{time.perf_counter() - started:.1f} s, equal: {same}")
        started = time.perf_counter()
        found = mismatches(db)
        tell("verify the rollups", f"{time.perf_counter() - started:.1f} s, differences: {found or 'none'}")


def export(folder: Path) -> None:
    """Export a month as FOCUS and state how long it took and how much memory the process ever had."""
    from gateway.ledger.focus import Spec, export_focus

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    question = Question(since=BEGIN, until=BEGIN + MONTH)
    with opened(folder) as db:
        done = export_focus(db, question, spec=Spec.V1_2, file=folder / "focus.csv")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = time.perf_counter() - started
    tell("FOCUS export", f"{done.rows} rows in {took:.0f} s; memory {before // 1024} to {after // 1024} MiB")


def tell(what: str, result: str) -> None:
    """Print one result."""
    print(f"{what:<55} {result}", flush=True)


if __name__ == "__main__":
    main()
