"""Pairs to train the cross-encoder on, from the groups of questions in `questions/`.

A group is a question, others that the same answer serves, and others that look alike and need another answer. That
alone would teach that shared words mean another question, since whoever writes a trap keeps the words and whoever
writes a repeat changes them. So every question is also paired with light variants of itself (another opening, a slip
of the hand, no capitals), and with its neighbours of other groups, which is what most of a cache's neighbours are.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

QUESTIONS = Path(__file__).parent / "questions"

OPENINGS = (
    ("how do i ", "how can i ", "how to ", "how should i ", "what is the best way to ", "what are some ways to "),
    ("what is ", "what's "),
    ("who is ", "who's "),
    ("why do ", "what is the reason that "),
    ("can i ", "is it possible to ", "am i able to "),
    ("should i ", "is it a good idea to "),
    ("what are ", "which are "),
    ("is there a way to ", "how can i "),
)
"""Ways to open the same question."""
COURTESIES = (
    "Hi, {}",
    "Please tell me: {}",
    "Quick question: {}",
    "Does anyone know: {}",
    "I was wondering, {}",
    "Hello! {}",
    "{} Thanks!",
    "{} Please help.",
)
DROPPED = frozenset({"the", "a", "an", "my", "your", "some", "really", "just"})
"""Words that hardly ever change what is asked."""

NEIGHBOURS = 6
"""Nearest questions of other groups among which a neighbour is drawn."""
NEAREST, FARTHEST = 0.86, 0.30
"""Cosines between which a question of another group is taken for another question: nearer, two groups may have asked
the same thing; farther, nobody would compare them."""


class QuestionsError(Exception):
    """A file of groups is missing or a line of it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Questions about one thing; `same` has the question and its repeats, `other` what looks like them."""

    subject: str
    same: tuple[str, ...]
    other: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A pair to train on; `kind` is `repeat`, `variant`, `other` or `neighbour`, `weight` its share in the loss."""

    a: str
    b: str
    same: bool
    kind: str
    subject: str
    weight: float


def read_groups(folder: Path = QUESTIONS) -> list[Group]:
    """Read every `*.txt` of a folder, in order of their names.

    Raises:
        QuestionsError: there are none, or a line has no repeat, or an empty field.
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise QuestionsError(f"{folder} has no *.txt with groups of questions")
    return [
        _group(line, f"{file}:{number}", file.stem)
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    ]


def _group(line: str, where: str, subject: str) -> Group:
    fields = [field.strip() for field in line.split(" | ")]
    same = tuple(field for field in fields if not field.startswith("~"))
    other = tuple(field[1:].strip() for field in fields if field.startswith("~"))
    if len(same) < 2 or not other or not all((*same, *other)):
        raise QuestionsError(f"{where}: expected `question | same | ~other`, each at least once, got {line!r}")
    return Group(subject=subject, same=same, other=other)


def pairs_of(groups: Sequence[Group], rng: np.random.Generator) -> list[Drawn]:
    """Return the pairs inside each group, with variants; see the module for why."""
    return [pair for group in groups for pair in _pairs(group, rng) if pair.a != pair.b]


def _pairs(group: Group, rng: np.random.Generator) -> Iterator[Drawn]:
    def drawn(a: str, b: str, kind: str, weight: float) -> Drawn:
        return Drawn(a=a, b=b, same=kind in {"repeat", "variant"}, kind=kind, subject=group.subject, weight=weight)

    first, *repeats = group.same
    for at, question in enumerate(group.same):
        yield from (drawn(earlier, question, "repeat", 1.0) for earlier in group.same[:at])
        yield drawn(question, varied(question, rng), "variant", 0.5)
    for repeat in repeats:
        yield drawn(varied(first, rng), repeat, "repeat", 0.5)
    for other in group.other:
        yield drawn(first, other, "other", 1.0)
        yield drawn(varied(first, rng), varied(other, rng), "other", 0.7)
        yield drawn(other, varied(other, rng), "variant", 0.4)
        yield from (drawn(repeat, other, "other", 0.6) for repeat in repeats)


def neighbours_of(
    groups: Sequence[Group], vectors: Mapping[str, NDArray[np.float32]], rng: np.random.Generator
) -> list[Drawn]:
    """Return pairs of near questions of different groups, three for every two questions.

    Args:
        groups: the groups; only questions of one subject are paired.
        vectors: every question's embedding, float32[d] of unit length.
        rng: draws among the nearest.
    """
    pairs: list[Drawn] = []
    for subject in sorted({group.subject for group in groups}):
        own = [group for group in groups if group.subject == subject]
        texts = [text for group in own for text in (*group.same, *group.other)]
        of = np.array([at for at, group in enumerate(own) for _ in (*group.same, *group.other)])
        rows = np.stack([vectors[text] for text in texts])
        for at, text in enumerate(texts):
            cosines = rows @ rows[at]
            cosines[(of == of[at]) | (cosines > NEAREST)] = -1.0
            near = np.argpartition(-cosines, NEIGHBOURS)[:NEIGHBOURS]
            for chosen in rng.permutation(near)[: 1 + at % 2]:
                if cosines[chosen] > FARTHEST:
                    pair = Drawn(a=text, b=texts[chosen], same=False, kind="neighbour", subject=subject, weight=0.8)
                    pairs.append(pair)
    return pairs


def varied(text: str, rng: np.random.Generator) -> str:
    """Return the question as someone else might type it: one or two light changes, or none where none fits."""
    for change in rng.permutation(len(_CHANGES))[: rng.integers(1, 3)]:
        text = _CHANGES[change](text, rng)
    return text


def _opened(text: str, rng: np.random.Generator) -> str:
    for openings in OPENINGS:
        for opening in openings:
            if text.lower().startswith(opening):
                other = str(rng.choice([each for each in openings if each != opening]))
                return (other if rng.random() < 0.5 else other.capitalize()) + text[len(opening) :]
    return text


def _courteous(text: str, rng: np.random.Generator) -> str:
    head, _, rest = text.partition(" ")
    keeps = head.isupper() or any(letter in string.ascii_uppercase for letter in head[1:])
    return str(rng.choice(COURTESIES)).format(text if keeps else f"{head.lower()} {rest}".strip())


def _bare(text: str, rng: np.random.Generator) -> str:
    forms = (
        text.rstrip("?.! ").lower(),
        text.lower(),
        text.rstrip("?"),
        text.replace("?", " ?"),
        text.replace("'", ""),
    )
    return str(rng.choice(forms))


def _shortened(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    small = [at for at, word in enumerate(words) if word.lower() in DROPPED]
    if small:
        del words[int(rng.choice(small))]
    return " ".join(words)


def _mistyped(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    long = [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    at = int(rng.choice(long))
    word = words[at]
    slip = int(rng.integers(1, len(word) - 2))
    before, one, two, after = word[:slip], word[slip], word[slip + 1], word[slip + 2 :]
    words[at] = str(rng.choice([before + two + one + after, before + two + after, before + one + one + two + after]))
    return " ".join(words)


_CHANGES: tuple[Callable[[str, np.random.Generator], str], ...] = (
    _opened,
    _opened,
    _courteous,
    _bare,
    _bare,
    _shortened,
    _mistyped,
)
