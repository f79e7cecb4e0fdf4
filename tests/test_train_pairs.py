from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_cache.train_pairs import Group, QuestionsError, neighbours_of, pairs_of, read_groups, varied

LINE = "How do I bake bread? | How is bread baked? | Tips for baking bread? | ~How do I slice bread? | ~Who baked this?"
GROUP = Group(
    subject="food",
    same=("How do I bake bread?", "How is bread baked?", "Tips for baking bread?"),
    other=("How do I slice bread?", "Who baked this?"),
)


def test_a_line_is_a_group(tmp_path: Path):
    (tmp_path / "food.txt").write_text(LINE + "\n")
    assert read_groups(tmp_path) == [GROUP]


@pytest.mark.parametrize("line", ["", "only one", "one | two", "one | ~other", "one | two | ~", "one |  | ~other"])
def test_a_line_that_is_no_group_is_named(tmp_path: Path, line: str):
    (tmp_path / "food.txt").write_text(f"{LINE}\n{line}\n")
    with pytest.raises(QuestionsError, match=r"food.txt:2: expected `question \| same \| ~other`"):
        read_groups(tmp_path)


def test_a_folder_without_groups_is_named(tmp_path: Path):
    with pytest.raises(QuestionsError, match=r"has no \*.txt"):
        read_groups(tmp_path)


def test_the_questions_of_the_project_are_groups_and_none_is_asked_twice():
    groups = read_groups()
    asked = [group.same[0].lower() for group in groups]
    assert len(groups) == len(set(asked)) == 7908
    assert not any("|" in text or "~" in text for group in groups for text in (*group.same, *group.other))


def test_what_was_written_as_a_repeat_is_one_and_what_looks_like_it_is_none():
    pairs = pairs_of([GROUP], np.random.default_rng(0))
    plain = {(pair.a, pair.b): pair.same for pair in pairs}
    question, *repeats = GROUP.same
    assert all(plain[question, repeat] for repeat in repeats)
    assert not any(plain[one, other] for one in GROUP.same for other in GROUP.other)
    assert {pair.kind for pair in pairs if pair.same} == {"repeat", "variant"}
    assert {pair.kind for pair in pairs if not pair.same} == {"other"}
    assert all(pair.a != pair.b and 0 < pair.weight <= 1 for pair in pairs)


@given(text=st.from_regex(r"[A-Za-z' ]{1,40}\?", fullmatch=True).filter(str.strip), seed=st.integers(0, 10_000))
def test_a_variant_keeps_what_is_asked(text: str, seed: int):
    changed = varied(text, np.random.default_rng(seed))
    assert changed.strip()
    assert len(changed) >= len(text.strip()) // 3


def test_the_same_seed_gives_the_same_pairs():
    assert pairs_of([GROUP], np.random.default_rng(3)) == pairs_of([GROUP], np.random.default_rng(3))


def _direction(*degrees: float) -> dict[str, np.ndarray]:
    texts = (text for group in _circle() for text in (*group.same, *group.other))
    turned = dict(zip(texts, np.radians(degrees), strict=True))
    return {text: np.array([np.cos(at), np.sin(at)], dtype=np.float32) for text, at in turned.items()}


def _circle() -> list[Group]:
    return [Group(subject="s", same=(f"{at} a", f"{at} b"), other=(f"{at} c",)) for at in range(3)]


def test_neighbours_are_of_other_groups_and_neither_equal_nor_far():
    vectors = _direction(0, 5, 10, 20, 60, 65, 150, 155, 160)
    pairs = neighbours_of(_circle(), vectors, np.random.default_rng(0))
    assert pairs
    for pair in pairs:
        assert pair.a[0] != pair.b[0]
        assert 0.30 < float(vectors[pair.a] @ vectors[pair.b]) <= 0.86
        assert not pair.same
