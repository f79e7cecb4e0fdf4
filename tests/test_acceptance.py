from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.embedder import DIMENSIONS, MiniLM, WordStates
from semantic_cache.acceptance import (
    ENOUGH,
    FEATURES,
    READ_FROM,
    SHIPPED,
    SIGNS,
    Acceptance,
    AcceptanceError,
    Accepted,
    Declined,
    Readers,
    Refusal,
    Step,
    aligned,
    features,
    seal,
)
from semantic_cache.cross_encoder import CrossEncoder
from semantic_cache.guard import MAX_CHARACTERS, Objection
from semantic_cache.train_acceptance import scores_of

MAX_ERROR = 0.05
WORDS = frozenset({"bank", "statement", "diary", "dairy"})
SUFFIX = " Answer in one short sentence."

REPEATS = [
    ("What is the capital of France?", "What's the capital city of France?"),
    ("What is the capital of France?", "Which city is the capital of France?"),
    ("Who wrote Hamlet?", "Who is the author of Hamlet?"),
    ("What is the chemical symbol for gold?", "Which chemical symbol does gold have?"),
    ("What is the largest planet in the solar system?", "Which planet is the biggest in our solar system?"),
    ("How many legs does a spider have?", "A spider has how many legs?"),
    ("What is the boiling point of water?", "What's water's boiling point?"),
    ("Who invented the telephone?", "Who was the inventor of the telephone?"),
    ("What is the tallest mountain in Africa?", "Which mountain in Africa is the tallest?"),
    ("What is the currency of Japan?", "Which currency is used in Japan?"),
    ("Why is the sky blue?", "What is the reason the sky is blue?"),
]

NEAR_MISSES = [
    ("What is the capital of France?", "What is the capital of Finland?"),
    ("What is 17 + 25?", "What is 17 + 26?"),
    ("What is the tallest mountain in Africa?", "What is the tallest mountain in Asia?"),
    ("Is aspirin safe for dogs?", "Is aspirin unsafe for dogs?"),
    ("Convert 5 km to miles.", "Convert 5 miles to km."),
    ("Who wrote Hamlet?", "Who wrote Macbeth?"),
    ("What is the chemical symbol for gold?", "What is the chemical symbol for silver?"),
    ("What is the chemical symbol for gold?", "Which chemical symbol does silver have?"),
    ("What is the largest planet in the solar system?", "Which is the biggest moon in our solar system?"),
    ("How many legs does a spider have?", "How many legs does an insect have?"),
    ("What is the boiling point of water?", "What is the freezing point of water?"),
    ("When did World War I end?", "When did World War II end?"),
    ("Which planet is closest to the Sun?", "Which planet is farthest from the Sun?"),
    ("What gas do plants absorb?", "Which gas do plants release?"),
]


@dataclass(frozen=True)
class Judge:
    """Acceptance with the similarity that serving would see."""

    embedder: MiniLM
    acceptance: Acceptance

    def __call__(self, asked: str, stored: str, max_error: float = MAX_ERROR) -> Accepted | Declined:
        one, other = self.embedder.embed([asked, stored])
        return self.acceptance.judge(asked=asked, stored=stored, similarity=float(one @ other), max_error=max_error)


@pytest.fixture(scope="module")
def judge() -> Judge:
    embedder = MiniLM.load()
    return Judge(embedder, Acceptance.load(states=embedder.states))


@pytest.mark.parametrize("suffix", ["", SUFFIX])
@pytest.mark.parametrize(("asked", "stored"), REPEATS)
def test_a_plain_paraphrase_is_served(judge: Judge, asked: str, stored: str, suffix: str):
    assert isinstance(judge(asked + suffix, stored + suffix), Accepted)
    assert isinstance(judge(stored + suffix, asked + suffix), Accepted)


@pytest.mark.parametrize("suffix", ["", SUFFIX])
@pytest.mark.parametrize(("asked", "stored"), NEAR_MISSES)
def test_a_near_miss_is_not_served(judge: Judge, asked: str, stored: str, suffix: str):
    assert isinstance(judge(asked + suffix, stored + suffix), Declined)
    assert isinstance(judge(stored + suffix, asked + suffix), Declined)


def test_a_guarded_pair_is_declined_with_both_values_however_similar(judge: Judge):
    declined = judge.acceptance.judge(asked="Add 5 and 6", stored="Add 5 and 7", similarity=1.0, max_error=0.5)
    assert isinstance(declined, Declined)
    assert declined.reason is Objection.NUMBER
    assert declined.difference is not None
    assert (declined.difference.asked, declined.difference.stored) == ("5, 6", "5, 7")


def test_a_low_score_is_named_as_the_reason(judge: Judge):
    declined = judge("How do I bake bread?", "How do I delete my account?")
    assert isinstance(declined, Declined)
    assert declined.reason is Refusal.BELOW_THRESHOLD


def test_a_promise_that_no_threshold_keeps_silences_the_tier(judge: Judge):
    declined = judge("Why is the sky blue?", "Why is the sky blue?", max_error=0.0001)
    assert isinstance(declined, Declined)
    assert declined.reason is Refusal.NO_THRESHOLD


def test_a_text_too_long_to_compare_is_not_scored(judge: Judge):
    long = "why " * MAX_CHARACTERS
    declined = judge.acceptance.judge(asked=long, stored=long, similarity=1.0, max_error=MAX_ERROR)
    assert declined == Declined(
        reason=Objection.TOO_LONG, score=0.0, similarity=1.0, difference=getattr(declined, "difference", None)
    )


class _Asked(Exception):
    """Somebody wanted a text's words."""


def _no_words(text: str) -> WordStates:
    raise _Asked(text)


def test_the_words_of_a_far_neighbour_are_not_read_and_it_is_not_served(judge: Judge):
    readers = Readers(states=_no_words, together=CrossEncoder.load())
    acceptance = Acceptance(judge.acceptance.calibration, words=WORDS, readers=readers)
    pair = {"asked": "Who feeds the dogs?", "stored": "Who feeds the dogs at home?", "max_error": MAX_ERROR}
    far = acceptance.judge(**pair, similarity=READ_FROM - 0.01)
    assert isinstance(far, Declined)
    assert far.reason is Refusal.BELOW_THRESHOLD
    with pytest.raises(_Asked):
        acceptance.judge(**pair, similarity=0.99)


def test_the_score_never_falls_with_similarity(judge: Judge):
    pair = {"asked": "Why is the sky blue?", "stored": "Why does the sky look blue?"}
    scores = [judge.acceptance.score(**pair, similarity=float(cosine)) for cosine in np.linspace(-1, 1, 21)]
    assert scores == sorted(scores)


def test_no_weight_contradicts_the_sign_of_its_feature(judge: Judge):
    assert all(weight * sign >= 0 for weight, sign in zip(judge.acceptance.calibration.weights, SIGNS, strict=True))


@pytest.mark.parametrize(
    ("one", "other", "misspellings"),
    [("bank statement", "bank statment", 1), ("invoice", "invioce", 1), ("diary", "dairy", 0), ("zorvex", "zorvax", 0)],
)
def test_a_slip_of_the_pen_is_no_other_word(one: str, other: str, misspellings: int):
    values = features(asked=one, stored=other, similarity=0.5, words=WORDS, readers=None)
    assert values[FEATURES.index("misspellings")] == misspellings
    assert values[FEATURES.index("jaccard")] == (1.0 if misspellings else 0.0)


def _letters(text: str) -> WordStates:
    """Read each letter as a word, of one of four directions."""
    pieces = tuple(text)
    states = np.zeros((len(pieces), DIMENSIONS), dtype=np.float16)
    states[np.arange(len(pieces)), [ord(piece) % 4 for piece in pieces]] = 1
    return WordStates(pieces=pieces, states=states)


def _word_per_letter(text: str) -> WordStates:
    read = _letters(text)
    return WordStates(pieces=tuple(f"word{piece}" for piece in read.pieces), states=read.states)


@pytest.fixture(scope="module")
def by_letters() -> Readers:
    return Readers(states=_letters, together=CrossEncoder.load())


@given(one=st.text(max_size=60), other=st.text(max_size=60))
def test_features_are_finite_and_symmetric(by_letters: Readers, one: str, other: str):
    forth = features(asked=one, stored=other, similarity=0.5, words=frozenset(), readers=by_letters)
    back = features(asked=other, stored=one, similarity=0.5, words=frozenset(), readers=by_letters)
    assert forth.shape == (len(FEATURES),)
    assert np.isfinite(forth).all()
    np.testing.assert_array_equal(forth, back)


@given(errors=st.lists(st.floats(0.001, 0.5), min_size=2, max_size=6).map(sorted))
def test_every_promise_is_kept_and_a_laxer_one_gives_up_no_more_than_it_may(judge: Judge, errors: list[float]):
    chosen = [(error, step) for error in errors if (step := judge.acceptance.step(error)) is not None]
    assert all(step.upper_bound <= error for error, step in chosen)
    for (_, strict), (_, lax) in pairwise(chosen):
        assert lax.repeats_served >= ENOUGH * strict.repeats_served
    assert [judge.acceptance.step(error) is None for error in errors] == sorted(
        [judge.acceptance.step(error) is None for error in errors], reverse=True
    )


def _acceptance(tested: list[tuple[int, float, float]]) -> Acceptance:
    steps = tuple(
        Step(
            threshold=1 - at / 10, served=50 + at, wrong=wrong, upper_bound=bound, least_bound=least, repeats_served=0.5
        )
        for at, (wrong, bound, least) in enumerate(tested)
    )
    calibration = msgspec.structs.replace(Acceptance.load().calibration, steps=steps)
    return Acceptance(calibration, words=frozenset())


def test_the_strictest_threshold_with_most_of_the_loosest_ones_repeats_is_taken():
    steps = [(0.9, 0.3), (0.8, 0.47), (0.7, 0.49), (0.6, 0.6), (0.5, 0.9)]
    bounds = [0.01, 0.01, 0.01, 0.02, 0.2]
    sequence = tuple(
        Step(threshold=at, served=50, wrong=0, upper_bound=bound, least_bound=0.01, repeats_served=repeats)
        for (at, repeats), bound in zip(steps, bounds, strict=True)
    )
    calibration = msgspec.structs.replace(Acceptance.load().calibration, steps=sequence)
    acceptance = Acceptance(calibration, words=frozenset())
    assert acceptance.threshold(0.05) == 0.7
    assert acceptance.threshold(0.01) == 0.8


def test_the_sequence_ends_at_its_first_failure_even_if_a_later_step_would_pass():
    acceptance = _acceptance([(0, 0.045, 0.045), (2, 0.086, 0.04), (2, 0.026, 0.01)])
    assert acceptance.threshold(0.05) == 1.0


def test_steps_with_too_few_pairs_to_pass_are_no_failures():
    acceptance = _acceptance([(0, 0.37, 0.37), (0, 0.21, 0.21), (0, 0.045, 0.045)])
    assert acceptance.threshold(0.05) == pytest.approx(0.8)


def test_an_error_among_the_strictest_leaves_no_threshold():
    assert _acceptance([(3, 0.13, 0.04), (3, 0.066, 0.02)]).threshold(0.05) is None


@pytest.mark.parametrize(("one", "other", "worst", "mean"), [("aa", "a", 1, 1), ("ab", "a", 0, 0.75), ("a", "b", 0, 0)])
def test_the_worst_matched_word_is_found_from_both_sides(one: str, other: str, worst: float, mean: float):
    assert aligned(_word_per_letter(one), _word_per_letter(other)) == (worst, mean)
    assert aligned(_word_per_letter(other), _word_per_letter(one)) == (worst, mean)


def test_texts_without_words_match_only_each_other():
    assert aligned(_letters(""), _letters("")) == (1.0, 1.0)
    assert aligned(_letters(""), _letters("x")) == (-1.0, -1.0)


@given(one=st.text(max_size=60), other=st.text(max_size=60), similarity=st.floats(-1, 1))
def test_a_score_without_reading_the_words_is_never_below_the_one_with_them(
    by_letters: Readers, one: str, other: str, similarity: float
):
    calibration = Acceptance.load().calibration
    bound, read = (
        scores_of(
            calibration,
            features(asked=one, stored=other, similarity=similarity, words=frozenset(), readers=readers)[None, :],
        )[0]
        for readers in (None, by_letters)
    )
    assert bound >= read


def test_the_shipped_calibration_states_its_promise_and_its_sources():
    calibration = Acceptance.load().calibration
    assert calibration.confidence == 0.90
    assert calibration.pairs == sum(source.rows for source in calibration.sources)
    assert all("http" in source.licence and "http" in source.attribution for source in calibration.sources)


def test_the_shipped_calibration_belongs_to_the_shipped_embedder(judge: Judge):
    assert judge.acceptance.calibration.embedder == judge.embedder.id


def test_a_changed_artefact_is_refused(tmp_path: Path):
    changed = tmp_path / "acceptance.json"
    changed.write_bytes(SHIPPED.read_bytes().replace(b'"confidence": 0.9', b'"confidence": 0.8'))
    with pytest.raises(AcceptanceError, match="was changed"):
        Acceptance.load(changed)


def test_an_artefact_of_an_earlier_format_is_told_so(tmp_path: Path):
    earlier = tmp_path / "acceptance.json"
    earlier.write_bytes(SHIPPED.read_bytes().replace(b'"format": 3', b'"format": 2'))
    with pytest.raises(AcceptanceError, match=r"has format 2 .*reads format 3"):
        Acceptance.load(earlier)


def test_an_artefact_of_other_features_is_refused(tmp_path: Path):
    other = tmp_path / "acceptance.json"
    other.write_bytes(seal(msgspec.structs.replace(Acceptance.load().calibration, features=("cosine",))))
    with pytest.raises(AcceptanceError, match="train it again"):
        Acceptance.load(other)


def test_an_artefact_of_another_cross_encoder_is_refused(tmp_path: Path):
    other = tmp_path / "acceptance.json"
    other.write_bytes(seal(msgspec.structs.replace(Acceptance.load().calibration, cross_encoder="0" * 64)))
    with pytest.raises(AcceptanceError, match=r"cross-encoder 0000.*train it again"):
        Acceptance.load(other)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_what_is_no_artefact_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "acceptance.json"
    path.write_bytes(content)
    with pytest.raises(AcceptanceError, match="no acceptance calibration"):
        Acceptance.load(path)


def test_a_missing_artefact_is_named(tmp_path: Path):
    with pytest.raises(AcceptanceError, match="cannot read"):
        Acceptance.load(tmp_path / "none.json")
