from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.embedder import DIMENSIONS, MiniLM, WordStates
from semantic_cache.cross_encoder import MOST, MOST_READ, SHIPPED, CrossEncoder, CrossEncoderError

REPEATS = [
    ("How do I stop my cat from scratching the sofa?", "My cat claws the couch all the time, what can I do about it?"),
    ("What time does the pharmacy close?", "Until when is the pharmacy open?"),
    ("How can I get a refund for a cancelled flight?", "my flight was called off, how do i get my money back"),
    ("Why do leaves change colour in autumn?", "What makes the leaves turn red in the fall?"),
    ("Is it worth learning Esperanto?", "Should I learn Esperanto?"),
]
TRAPS = [
    ("How do I stop my cat from scratching the sofa?", "How do I stop my dog from scratching the sofa?"),
    ("What time does the pharmacy close?", "Why does the pharmacy close?"),
    ("How can I get a refund for a cancelled flight?", "How can I cancel a flight?"),
    ("Why do leaves change colour in autumn?", "When do leaves change colour in autumn?"),
    ("Is it worth learning Esperanto?", "Is it hard to learn Esperanto?"),
]


@pytest.fixture(scope="module")
def embedder() -> MiniLM:
    return MiniLM.load()


@pytest.fixture(scope="module")
def encoder() -> CrossEncoder:
    return CrossEncoder.load()


@pytest.mark.parametrize(("one", "other"), REPEATS)
def test_a_repeat_in_other_words_is_told_from_a_trap_in_the_same(
    embedder: MiniLM, encoder: CrossEncoder, one: str, other: str
):
    trap = next(second for first, second in TRAPS if first == one)
    asked, repeat, near_miss = (embedder.states(text) for text in (one, other, trap))
    assert encoder.log_odds(asked, repeat) > 0 > encoder.log_odds(asked, near_miss)


@given(lengths=st.tuples(st.integers(0, 90), st.integers(0, 90)), seed=st.integers(0, 1000))
def test_any_words_give_bounded_odds_in_either_order(encoder: CrossEncoder, lengths: tuple[int, int], seed: int):
    rng = np.random.default_rng(seed)
    one, other = (
        WordStates(
            pieces=tuple(f"{side}{at}" for at in range(length)),
            states=rng.normal(size=(length, DIMENSIONS)).astype(np.float16),
        )
        for side, length in zip("ab", lengths, strict=True)
    )
    said = encoder.log_odds(one, other)
    assert -MOST <= said <= MOST
    assert said == encoder.log_odds(other, one)


def test_a_long_text_is_read_from_its_beginning(encoder: CrossEncoder, embedder: MiniLM):
    read = embedder.states("why " * 100)
    begun = WordStates(pieces=read.pieces[:MOST_READ], states=read.states[:MOST_READ])
    question = embedder.states("Why is the sky blue?")
    assert encoder.log_odds(read, question) == encoder.log_odds(begun, question)


def test_changed_weights_are_refused(tmp_path: Path):
    changed = tmp_path / "cross_encoder.onnx"
    changed.write_bytes(SHIPPED.read_bytes()[:-1] + b"x")
    with pytest.raises(CrossEncoderError, match=r"calibrated with .*install faregate again"):
        CrossEncoder.load(changed)


def test_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(CrossEncoderError, match=r"cannot read the cross-encoder .*none\.onnx"):
        CrossEncoder.load(tmp_path / "none.onnx")
