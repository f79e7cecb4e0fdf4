"""Prompts and answers that a policy wants stored: what is taken out, sealed, kept, cut, deleted and forgotten."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from backends.words import JsonValue
from gateway.cli import main
from gateway.content.cipher import Cipher, ContentUnusable
from gateway.content.redaction import redacted, redacted_json
from gateway.content.store import FILE_NAME, ContentStore, Stored, body_of
from policies.errors import PolicyError
from policies.loader import parse_policy
from tests.backends.fakes import NOON
from tests.served.world import Served, a_policy, serving
from tests.upstream import Upstream, says

KEY, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (7, 8))
MINIMAL = "version: 1\nmodels: {m: {backend: openai, name: gpt-5, api_key: x}}\nroutes: [{name: a, ladder: [m]}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jo.doe+x@mail.example.co.uk today", "Write to [email] today"),
        ("card 4111 1111 1111 1111, thanks", "card [card], thanks"),
        ("order 4111 1111 1111 1112, thanks", "order 4111 1111 1111 1112, thanks"),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [iban]."),
        ("ssn 078-05-1120", "ssn [social security number]"),
        ("call +49 (30) 901820-12 now", "call [phone] now"),
        ("from 192.168.0.1 to 2001:db8:0:0:0:0:2:1", "from [ip] to [ip]"),
        ("version 1.2.3.400", "version 1.2.3.400"),
        ("key sk-proj-abcdefghijklmnopqrst and AKIAIOSFODNN7EXAMPLE", "key [secret] and [secret]"),
        ("Authorization: Bearer abcdef0123456789ABCDEF", "Authorization: Bearer [secret]"),
        ("postgres://me:hunter2@db/x", "postgres://[password]@db/x"),
        ("In 2026 we sold 1,250,000 units at 3.50", "In 2026 we sold 1,250,000 units at 3.50"),
    ],
)
def test_what_patterns_can_tell_is_taken_out_and_the_rest_stays(text: str, expected: str):
    assert redacted(text) == expected


def test_pictures_are_left_out_and_long_texts_end_between_words():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 999}}
    found = redacted_json([picture, "my mail is a@b.example"], most=15)

    assert found == [{"type": "image_url", "image_url": {"url": "[data]"}}, "my…"]


@given(st.text(alphabet="a1 .:@-+/()\n", max_size=400))
def test_redacting_twice_is_redacting_once(text: str):
    once = redacted(text)

    assert redacted(once) == once


def a_row(number: int = 1, *, user: str | None = None, hours: int = 0, text: str = "Hi") -> Stored:
    return Stored(
        request_id=f"req-{number}",
        tenant="acme",
        known_as=user,
        stored_at=NOON + timedelta(hours=hours),
        is_cut=False,
        body=body_of({"prompt": text}, None),
    )


def test_what_is_old_or_too_much_is_deleted_oldest_first_and_overwritten(tmp_path: Path):
    with closing(ContentStore.open(tmp_path)) as store:
        for number in range(6):
            store.put(a_row(number, hours=number, text=f"marker-{number}" * 100))
        by_age = store.sweep(NOON + timedelta(hours=6), retention=timedelta(hours=4))
        by_size = store.sweep(NOON, retention=timedelta(hours=4), max_store_bytes=2_500)

        left = [number for number in range(6) if store.find(f"req-{number}") is not None]
    bytes_left = (tmp_path / FILE_NAME).read_bytes()
    assert (by_age, by_size, left) == (2, 2, [4, 5])
    assert b"marker-3" not in bytes_left
    assert b"marker-5" in bytes_left


def test_a_file_of_a_later_version_is_refused(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.execute("PRAGMA user_version = 9")

    with pytest.raises(ContentUnusable, match="version 9, this Faregate reads version 1"):
        ContentStore.open(tmp_path)


def test_a_key_opens_what_a_former_one_sealed_and_nothing_that_was_moved():
    pytest.importorskip("cryptography", reason="the extra content is not installed")
    old, new = Cipher(b"a" * 32), Cipher(b"b" * 32, [b"a" * 32])
    sealed = old.seal(b"secret", about=b"req-1")

    assert b"secret" not in sealed
    assert new.open(sealed, about=b"req-1", name=old.name) == b"secret"
    with pytest.raises(ContentUnusable, match="not as it was stored"):
        new.open(sealed, about=b"req-2", name=old.name)
    with pytest.raises(ContentUnusable, match=r"under key .*former_keys"):
        old.open(sealed, about=b"req-1", name=new.name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("encrypted", "ledger.content: `keep: encrypted` needs a `key`: run `faregate content key`"),
        ("{keep: redacted, key: %s}", "ledger.content: `key` and `former_keys` have no effect"),
        ("{keep: encrypted, key: short}", "ledger.content.key: expected a key of 32 bytes in base64"),
        ("kept", "ledger.content.keep: expected none, redacted or encrypted"),
        ("{keep: redacted, retention: 30}", "ledger.content.retention: expected a duration"),
    ],
)
def test_mistakes_about_content_are_named(content: str, expected: str):
    text = f"{MINIMAL}ledger:\n  content: {content.replace('%s', KEY)}\n"
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, Path("p.yaml"), {}, calibrations_folder=Path("none"))

    (found,) = caught.value.mistakes
    assert expected in f"{found.path}: {found.message}"
    assert KEY not in found.message


@asynccontextmanager
async def asked(place: Path, content: JsonValue) -> AsyncIterator[tuple[Served, Path]]:
    answers = {"mail": says("Ask bob@corp.example."), "cut": says("One two three.", cut_after=2)}
    async with Upstream(answers) as upstream:
        policy = a_policy([upstream.url], ledger={"content": content})
        async with serving(place, policy) as served:
            yield served, place / "policy.yaml"


def shown(policy: Path, request_id: str, *, status: int = 0) -> JsonValue:
    done = CliRunner().invoke(main, ["content", "show", request_id, "--policy", str(policy)])
    assert done.exit_code == status, done.output
    return done.stderr if status else json.loads(done.stdout)


async def test_by_default_nothing_is_stored(tmp_path: Path):
    async with Upstream({}) as upstream, serving(tmp_path, a_policy([upstream.url])) as served:
        seen = await served.ask("Do you keep this?")
        await served.rows_of(seen)

    assert not list(served.folder.glob(f"{FILE_NAME}*"))
    held = [file.name for file in served.folder.rglob("*") if file.is_file() and b"Do you keep" in file.read_bytes()]
    assert held == []


async def test_redacted_prompts_and_answers_are_shown_by_their_request(tmp_path: Path):
    async with asked(tmp_path, "redacted") as (served, policy):
        whole = await served.ask("mail from eve@x.example")
        streamed = await served.ask("mail", stream=True)
        broken = await served.ask("cut", stream=True)
        ids = [seen.headers["x-request-id"] for seen in (whole, streamed, broken)]

    first, second, third = (shown(policy, request_id) for request_id in ids)
    assert first["prompt"]["messages"][0]["content"] == "mail from [email]"
    assert second["answer"][0]["text"] == "Ask [email]."
    assert (first["tenant"], second["answer"][0]["finish_reason"]) == ("acme", "stop")
    assert third["answer"][0]["text"].startswith("One")
    assert "nothing is stored of request" in shown(policy, "gone", status=1)
    assert b"eve@x" not in (served.folder / FILE_NAME).read_bytes()


async def test_what_a_cache_answers_is_stored_too(tmp_path: Path):
    async with asked(tmp_path, "redacted") as (served, policy):
        seen = [await served.ask("mail", model="cached")]
        await served.stored()
        seen += [await served.ask("mail", model="cached") for _ in range(2)]
        seen.append(await served.ask("mail", model="cached", stream=True))

    assert {one.headers["x-faregate-path"] for one in seen[1:]} == {"cache:exact"}
    for one in seen:
        (choice,) = shown(policy, one.headers["x-request-id"])["answer"]
        assert choice["message"]["content"] == "Ask [email]."


async def test_encrypted_prompts_need_the_key_and_are_forgotten_with_their_user(tmp_path: Path):
    pytest.importorskip("cryptography", reason="the extra content is not installed")
    async with asked(tmp_path, {"keep": "encrypted", "key": KEY, "max_bytes": 100}) as (served, policy):
        seen = await served.ask("A secret plan", user="eve")
        long = await served.ask("long " * 99)
        ids = [one.headers["x-request-id"] for one in (seen, long)]
        await served.rows_of(seen, long)

    assert b"secret plan" not in (served.folder / FILE_NAME).read_bytes()
    assert shown(policy, ids[0])["prompt"]["messages"][0]["content"] == "A secret plan"
    cut = shown(policy, ids[1])
    assert (cut["is_cut"], len(cut["prompt"])) == (True, 100)
    other = tmp_path / "other.yaml"
    other.write_text(policy.read_text().replace(KEY, OTHER))
    assert "it was stored under key" in shown(other, ids[0], status=1)
    forget = ["ledger", "forget", "--folder", str(served.folder), "--tenant", "acme", "--user", "eve"]
    done = CliRunner().invoke(main, forget)
    assert "1 stored prompts and answers are deleted" in done.output
    assert "nothing is stored of request" in shown(policy, ids[0], status=1)


def test_a_key_that_is_made_is_one_a_policy_takes():
    made = CliRunner().invoke(main, ["content", "key"]).stdout.strip()
    text = f"{MINIMAL}ledger: {{content: {{keep: encrypted, key: {made}}}}}\n"

    policy = parse_policy(text, Path("p.yaml"), {}, calibrations_folder=Path("none"))

    assert policy.ledger.content.is_kept
    assert made not in policy.model_dump_json()


def test_purging_deletes_what_was_asked_before_a_day(tmp_path: Path):
    (tmp_path / "p.yaml").write_text(f"{MINIMAL}storage: {{folder: {tmp_path}}}\n")
    with closing(ContentStore.open(tmp_path)) as store:
        store.put(a_row(1))
        store.put(a_row(2, hours=24))

    done = CliRunner().invoke(
        main, ["content", "purge", "--policy", str(tmp_path / "p.yaml"), "--before", "2026-11-03"]
    )

    assert done.output == "deleted: 1 prompts and answers\n"
