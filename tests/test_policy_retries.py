"""The policy's keys about retries and equivalents, and their mistakes."""

from __future__ import annotations

import pytest

from tests.test_policy import GOOD, only_mistake, parse

LARGE = "large: {backend: openai, name: gpt-5, api_key: ${OPENAI_API_KEY}"
BACKUP = "\n  backup: {backend: openai, name: gpt-4o, api_key: ${OPENAI_API_KEY}}"


def with_equivalents(listed: str, backup: str = BACKUP) -> str:
    return GOOD.replace(f"{LARGE}}}", f"{LARGE}, equivalents: {listed}}}{backup}")


def test_retries_have_defaults_and_take_what_is_written():
    assert parse(GOOD).retries.model_dump() == {"max": 2, "budget_share": 0.2, "min_per_s": 1.0, "max_wait_s": 2.0}
    written = parse(GOOD + "retries: {max: 0, budget_share: 0.5}\n").retries
    assert (written.max, written.budget_share) == (0, 0.5)


def test_equivalents_are_kept_in_order():
    policy = parse(with_equivalents("[backup]"))
    assert policy.models["large"].equivalents == ("backup",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "retries: {max: -1}\n", "retries.max: expected greater than or equal to 0"),
        (GOOD + "retries: {budget_share: 2}\n", "retries.budget_share: expected less than or equal to 1"),
        (GOOD + "retries: {tries: 2}\n", 'retries.tries: unknown key "tries"'),
        (
            GOOD + "timeouts: {connect_s: 1, first_byte_s: 1, idle_s: 1, total_s: 2}\nretries: {max_wait_s: 3}\n",
            "retries.max_wait_s: max_wait_s (3) is longer than timeouts.total_s (2)",
        ),
        (
            with_equivalents("[gone]"),
            'models.large.equivalents[0]: unknown model "gone"; the catalog has: small, large',
        ),
        (with_equivalents("[large]"), '"large" cannot stand in for itself'),
        (with_equivalents("[backup, backup]"), 'equivalents[1]: "backup" is listed twice'),
        (with_equivalents("[small]"), 'it cannot do all that "large" can: json_schema missing'),
        (
            with_equivalents("[backup]", BACKUP[:-1] + ", context_tokens: 99}"),
            "its context_tokens (99) are fewer than those of",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(text: str, expected: str):
    assert expected in only_mistake(text)
