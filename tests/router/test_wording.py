"""What is read off a prompt: of any text, the same numbers for the same text, and never an error."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.wording import BUCKETS, SHAPE, WORDS, grams, shape

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)  # lone surrogates, too: JSON can hold them


@given(ANY_TEXT)
def test_any_text_has_grams_and_a_shape(text: str):
    buckets, values = grams(text)
    assert len(buckets) == len(values)
    assert (np.diff(buckets) > 0).all()
    assert ((buckets >= 0) & (buckets < BUCKETS)).all()
    assert (values >= 1).all()
    assert shape(text).shape == (len(SHAPE),)
    assert np.isfinite(shape(text)).all()


@given(ANY_TEXT)
def test_capitals_are_no_other_words(text: str):
    lower = text.encode("utf-8", "replace").lower().decode("utf-8", "replace")
    assert (grams(text)[0] == grams(lower)[0]).all()


def test_a_words_grams_are_found_in_every_text_that_has_it():
    alone = {int(bucket) for bucket in grams("linked")[0] if bucket < WORDS}
    within = {int(bucket) for bucket in grams("Reverse a linked list.")[0]}
    assert alone
    assert alone <= within


def test_a_shape_counts_what_it_says():
    counts = dict(zip(SHAPE, np.expm1(shape("Is 12 > A?\nYes, $3.")), strict=True))
    assert {name: round(float(counts[name])) for name in ("bytes", "digits", "capitals", "questions", "operators")} == {
        "bytes": 19,
        "digits": 3,
        "capitals": 3,
        "questions": 1,
        "operators": 1,
    }
    assert (round(float(counts["longest_line"])), round(float(counts["lines"])), round(float(counts["symbols"]))) == (
        10,
        1,
        1,
    )
