"""The verifier: a model of the catalog is asked whether one answer would serve both questions. Pure: no I/O.

The gateway sends `request_for` and gives the reply to `score_of`; what the model said is log P(yes) - log P(no) of the
first token. Zero is no threshold: small models say yes too easily. Together with the acceptance's score it makes one
calibrated score, whose thresholds belong to one model, one quantisation, one wording and one acceptance, so they are
kept with all four (`VerifierCalibration`), and `mismatch` tells of any other.

Rules:
- The guard comes first: what it objects to (numbers, names, requested format, language or length) is never asked, but
  for its `DOUBTS`.
- Only pairs with a cosine of ASKED_FROM or more are asked: below it hardly any is a repeat.
- The two questions stand last, so that everything before them is read from the model's prompt cache.
- No answer, or one without both words among its likeliest tokens, is None: the caller takes it for a miss.

Both questions are prompts of one tenant and one partition, and a question may say anything ("reply yes"). What it can
reach that way is another answer of the same tenant to the same system prompt, never one of another tenant.
"""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from policies.sealed import read_sealed, seal
from semantic_cache.acceptance import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.words import JsonValue

ASKED_FROM = 0.5
"""Lowest cosine asked about; asking costs a 1.5B model about a second of a core.

From 0.6 on 3 to 5 of 100 repeats fewer could be served; below 0.5 a neighbour in real traffic is hardly ever a repeat.
"""

TOP_LOGPROBS = 20
"""As many as vLLM gives: "yes" and "Yes" may both be wanted, with "no" far behind."""

FORMAT = 3

MOST_ODDS = 7.0
"""The acceptance's scores of its own calibration pairs end here, at 0.999."""

_AGAIN = "measure it again with `faregate evaluate cache --verifier MODEL --save FILE`"

_SYSTEM = (
    "You decide whether a stored answer may be reused. You are given two requests, A and B. Say yes if one and"
    " the same answer would fully and correctly serve both. Say no if any detail that changes the answer "
    "differs: the subject, a person, place, product, number, date, condition, direction, who it is for, a "
    "negation, or the requested form, language or length of the answer. Different wording alone does not "
    "matter. Reply with one word: yes or no."
)
_EXAMPLES = (
    ("How do I reset my password?", "I forgot my password, how can I get a new one?", "yes"),
    ("What is the fee for adults?", "What is the fee for children?", "no"),
    ("When does the museum open?", "What are the museum's opening hours?", "yes"),
    ("Who can join the library?", "Who can leave the library?", "no"),
    ("Could you explain what an index fund is?", "Explain index funds", "yes"),
    ("How do I add a printer?", "How do I add a scanner?", "no"),
    ("Is it legal to fish here without a permit?", "Do I need a permit to fish here?", "yes"),
    ("Describe the plan.", "Describe the plan as a JSON object.", "no"),
)
"""Half of them repeats, each of another kind; with them the 1.5B ranks better than with the instruction alone."""


class VerifierError(Exception):
    """A verifier's calibration is missing or damaged."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What is served at one `max_error`, and what that did on the calibration pairs.

    Attributes:
        max_error: tolerated share of wrong answers among the semantic hits served, in (0, 1).
        threshold: lowest verified score served; None where no threshold keeps `max_error`.
        served: pairs served, those that the acceptance serves alone included.
        wrong: how many of those were traps.
        upper_bound: of the share of wrong among served, in the traffic of the calibration's `assumption`.
        repeats_served: share of all true repeats served, in [0, 1].
    """

    max_error: float
    threshold: float | None
    served: int
    wrong: int
    upper_bound: float
    repeats_served: float


class VerifierCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact: how a model's word and the acceptance's make one score, and the thresholds that keep each error.

    Attributes:
        model: the upstream name that was asked; with llama.cpp it names the quantisation as well.
        weights: what else tells its weights apart (a file's sha256, `fp8`); "" where the name says it all.
        wording: `wording_id()` when it was measured.
        acceptance: digest of the acceptance whose score is the other half.
        made: ISO date.
        confidence: of every point's bound, 1 - delta.
        repeats: true repeats among the pairs; `traps` are the others.
        assumption: the traffic that the bounds are about.
        said_weight, accepted_weight, intercept: of the logistic score, see `score`.
        alone_from: from which of its scores on the acceptance serves without a question: above all that it got wrong
            on the pairs, so that what a route may get wrong is left to the model, which knows better; above 1: nothing.
        most: the highest log-odds the model gave on the pairs: what asking can bring at best.
        points: ascending by `max_error`.
    """

    format: int
    model: str
    weights: str
    wording: str
    acceptance: str
    made: str
    confidence: float
    repeats: int
    traps: int
    assumption: str
    sources: tuple[Source, ...]
    said_weight: float
    accepted_weight: float
    intercept: float
    alone_from: float
    most: float
    points: tuple[Point, ...]

    @classmethod
    def load(cls, path: Path) -> VerifierCalibration:
        """Read an artefact.

        Raises:
            VerifierError: it cannot be read, is none, or was changed after it was made.
        """
        content = read_sealed(path, what="the verifier's calibration", again=_AGAIN, error=VerifierError)
        try:
            calibration = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise VerifierError(f"{path} is no verifier's calibration: {error}; {_AGAIN}") from error
        if calibration.format != FORMAT:
            raise VerifierError(f"{path} has format {calibration.format}; this version reads {FORMAT}; {_AGAIN}")
        return calibration

    def dump(self) -> str:
        """Return the artefact's text; `load` accepts exactly this."""
        row: dict[str, JsonValue] = msgspec.to_builtins(self)
        return seal(row)

    def mismatch(self, *, model: str, weights: str, acceptance: str) -> str | None:
        """Tell for what else it was measured, in words; None when its thresholds mean something here.

        Args:
            model: the upstream name that will be asked.
            weights: what the policy says of its weights.
            acceptance: `Acceptance.digest`.
        """
        here = {"model": model, "weights": weights, "wording": wording_id(), "acceptance": acceptance}
        then = {name: getattr(self, name) for name in here}
        differing = [f"{name} {then[name] or 'not stated'!r}, here {value or 'not stated'!r}" for name, value in
                     here.items() if then[name] != value]  # fmt: skip
        return f"it was measured with {'; '.join(differing)}; {_AGAIN}" if differing else None

    def point(self, max_error: float) -> Point | None:
        """Return what is served at a route's `max_error`: the loosest stored point within it; None: nothing is."""
        within = [point for point in self.points if point.max_error <= max_error and point.threshold is not None]
        return within[-1] if within else None

    def score(self, said: float, accepted: float) -> float:
        """Return the fitted probability, in [0, 1], that one answer serves both questions.

        A logistic regression on two log-odds: where the model is unsure of a misspelling, the acceptance knows better,
        and of a paraphrase the model does.

        Args:
            said: log P(yes) - log P(no) of the model.
            accepted: the acceptance's score of the pair, in [0, 1].
        """
        logit = self.said_weight * said + self.accepted_weight * log_odds(accepted) + self.intercept
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))

    def may_serve(self, accepted: float, point: Point) -> bool:
        """Tell whether the surest yes would lift a pair over a point's threshold: others need not be asked about."""
        return point.threshold is not None and self.score(self.most, accepted) >= point.threshold


def log_odds(accepted: float) -> float:
    """Return the log-odds of the acceptance's score, at most MOST_ODDS either way: beyond it nothing was measured."""
    clipped = min(max(accepted, 1e-12), 1 - 1e-12)
    return max(-MOST_ODDS, min(MOST_ODDS, math.log(clipped / (1 - clipped))))


@functools.cache
def wording_id() -> str:
    """Name the exact wording: the first 12 hexadecimal digits of its sha256."""
    return hashlib.sha256(msgspec.json.encode(_messages("", ""))).hexdigest()[:12]


def pair_key(asked: str, stored: str, *, whose: bytes, model: str) -> bytes:
    """Return the exact key (32 bytes) under which what a model said of a pair is stored.

    Only digests go into it: nothing of a text is stored, and no text can spell another pair.

    Args:
        asked: the last user text of the request.
        stored: that of the stored answer.
        whose: what the two prompts share, tenant included.
        model: the upstream name that was asked, with what tells its weights.
    """
    parts = (b"verifier", whose, model.encode(), wording_id().encode(), asked.encode(), stored.encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def request_for(asked: str, stored: str, *, model: str) -> bytes:
    """Return the body of the chat completion that asks.

    Args:
        asked: the last user text of the request.
        stored: that of the stored answer.
        model: the upstream's name of the verifier.
    """
    body = {
        "model": model,
        "messages": _messages(asked, stored),
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }
    return msgspec.json.encode(body)


def _messages(asked: str, stored: str) -> list[dict[str, str]]:
    shown = [
        {"role": role, "content": content}
        for one, other, said in _EXAMPLES
        for role, content in (("user", _question(one, other)), ("assistant", said))
    ]
    return [
        {"role": "system", "content": _SYSTEM},
        *shown,
        {"role": "user", "content": _question(asked, stored)},
    ]


def _question(asked: str, stored: str) -> str:
    return f"A: {asked}\nB: {stored}\nWould one answer serve both?"


class _Token(msgspec.Struct):
    token: str
    logprob: float


class _Position(msgspec.Struct):
    top_logprobs: list[_Token]


class _Logprobs(msgspec.Struct):
    content: list[_Position]


class _Choice(msgspec.Struct):
    logprobs: _Logprobs


class _Reply(msgspec.Struct):
    choices: list[_Choice]


def score_of(reply: JsonValue) -> float | None:
    """Return log P(yes) - log P(no) of the first token; None when the reply does not tell.

    A word that is not among the likeliest tokens counts as likely as the least of them, which errs towards zero.

    Args:
        reply: the decoded body of a chat completion.
    """
    try:
        told = msgspec.convert(reply, _Reply)
    except msgspec.ValidationError:
        return None
    if not told.choices or not told.choices[0].logprobs.content:
        return None
    likeliest = told.choices[0].logprobs.content[0].top_logprobs
    yes, no = (_log_sum(likeliest, word) for word in ("yes", "no"))
    if yes is None and no is None:
        return None
    least = min(token.logprob for token in likeliest)
    return (least if yes is None else yes) - (least if no is None else no)


def _log_sum(tokens: Sequence[_Token], word: str) -> float | None:
    """Return the log-probability of a word in any case, with or without a space before it."""
    logs = [token.logprob for token in tokens if token.token.strip().lower() == word]
    if not logs:
        return None
    highest = max(logs)
    return highest + math.log(sum(math.exp(log - highest) for log in logs))
