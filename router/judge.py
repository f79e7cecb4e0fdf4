"""The cascade's judge: from a small model's token log-probabilities to keep or climb, with the promise that it keeps.

Rules:
- A calibration is an artefact made by `router.train_judge` from real answers; its digest is checked; it holds no
  chosen threshold, but for each threshold of a fixed grid the bounds on the quality lost. The route's promise picks.
- One threshold on the confidence serves every window: a step of the grid is accepted only when the bound holds for all
  windows (an intersection-union test: no correction is due), so it also holds for any mixture of them that a stream's
  time limit makes.
- An answer that has ended is judged as a whole, else by the largest window that its tokens fill. JSON is only judged
  whole, and never kept when it is invalid or was cut.
- What the calibration has not seen is not kept: no log-probabilities, too few tokens, more than its longest answer.
- A model without log-probabilities is judged by its answer's form (`Signal.TEXT`): whole answers only, and a refusal is
  never kept. Such a judge tells little; its calibration's bounds say how little, and keep the promise all the same.
  Asking the model again tells more (`Signal.SELF_CHECK`, `Signal.AGREEMENT`, see `router.probe`): what that gave is
  evidence beside the form, and an answer without it is not kept.
- Answers to requests that offer tools are judged whole, calls or not, by a window of their own, whose bounds are those
  of such requests alone; a calibration without one does not speak for tools. Calls that do not fit are never kept.
- No scikit-learn: the models are logistic, their weights are numbers in the artefact.

CalibrationError is all that can go wrong here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from math import exp, fsum, log, log1p
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.words import Capability, ModelId, TokenLogprob
from policies.promise import fixed_sequence
from policies.sealed import read_sealed, seal
from policies.signals import Signal as Signal  # noqa: PLC0414 - a judge's word too

WHOLE = "whole"
"""The name of the window that is the whole answer."""
TOOLS = "tools"
"""The name of the window that is the whole answer to a request which offers tools."""


class CalibrationError(Exception):
    """An artefact is missing, damaged or not one of ours; the message says how to get a good one."""


class Reason(StrEnum):
    """Why an answer was kept or not."""

    ABOVE = "above_threshold"
    BELOW = "below_threshold"
    TOO_FEW_TOKENS = "too_few_tokens"
    TOO_LONG = "longer_than_calibrated"
    NO_LOGPROBS = "no_logprobs"
    UNUSUAL_END = "unusual_end"
    JSON_UNFINISHED = "json_unfinished"
    JSON_CUT = "json_cut"
    JSON_INVALID = "json_invalid"
    UNFINISHED = "text_unfinished"
    REFUSED = "refused_to_answer"
    CALL_INVALID = "tool_call_invalid"
    TOOLS_UNFINISHED = "tools_unfinished"
    TOOLS = "tools_outside_calibration"
    NO_PROBE = "not_asked_again"
    """The model was to be asked again, and gave no usable reply, or could not be asked."""
    UNSEEN_SIGNAL = "signal_outside_training"
    """The answer's mean log-probability is beyond those of an artefact's records."""
    UNFORESEEN = "not_foreseen"
    """An artefact's judge goes on from its forecast of the prompt, and there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about an answer.

    Attributes:
        has_tools: the request offered some; `text` is then the answer's calls as JSON, where it makes any.
        is_valid: JSON fits its schema, calls fit their tools (True for text).
        text: what was written so far; judges of log-probabilities do not look at it.
        probe: what asking the model again gave (`router.probe.PROBED`); None: it was not asked.
    """

    tokens: Sequence[TokenLogprob]
    is_finished: bool
    finish_reason: str | None
    is_json: bool = False
    is_valid: bool = True
    text: str = ""
    has_tools: bool = False
    probe: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A rung that an answer could be left for, or its own: expected quality, and dollars that are not spent yet."""

    model: ModelId
    quality: float
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Keep or climb. `window` names what was looked at, "none" when nothing could be.

    Attributes:
        goes_to: the rung to climb to, passing those between; None: the next.
        ways: what an artefact weighed against each other.
        is_barred: no threshold of the confidence would have the answer kept.
    """

    confidence: float
    is_kept: bool
    window: str
    reason: Reason
    goes_to: ModelId | None = None
    ways: tuple[Way, ...] = ()
    is_barred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The cluster of calibration questions that a question lies in, and whether to start small there."""

    name: str
    similarity: float
    keep_rate: float
    start_small: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The question is like none of the calibration's."""

    similarity: float
    cutoff: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one window does at one threshold, on the calibration's questions.

    Attributes:
        mean_loss: mean of q_large - q_served, in [-1, 1]: an estimate, never a promise.
        bounds: upper bound of the expected loss, by its confidence ("0.9").
        share: questions answered by the small model.
        savings: share of the large model's core time saved, rejected attempts paid; may be negative.
        savings_low: lower end of its 90 % bootstrap interval.
        savings_high: upper end.
        harm_bounds: upper bound of the expected harm (the loss's positive part), by its confidence: unlike `bounds` it
            also holds for any part of the answers kept, however that part is chosen. Empty in older artefacts.
    """

    mean_loss: float
    bounds: Mapping[str, float]
    share: float
    savings: float
    savings_low: float
    savings_high: float
    harm_bounds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One threshold of the grid; `keep_rates` and `start_small` are by task, in the order of `Calibration.tasks`."""

    threshold: float
    keep_rates: tuple[float, ...]
    start_small: tuple[bool, ...]
    windows: Mapping[str, Kept]

    def bound(self, confidence: str, *, is_shared: bool = False) -> float:
        """Return the worst window's bound; of the harm when other rungs of the ladder are judged too."""
        if is_shared:
            return max(kept.harm_bounds[confidence] for kept in self.windows.values())
        return max(kept.bounds[confidence] for kept in self.windows.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a judge keeps to. The single figures are those of the worst window.

    Attributes:
        max_loss: what the route asked for.
        confidence: at least what the route asked for (the next one that was computed).
        bound: the expected loss is below this, at `confidence`.
        mean_loss: the loss seen on the calibration's questions.
        n: questions it rests on.
        threshold: keep at or above this confidence.
        windows: the same by window.
        is_shared: `bound` is of the harm, for any part of the answers kept.
    """

    max_loss: float
    confidence: float
    bound: float
    mean_loss: float
    n: int
    threshold: float
    share_kept: float
    savings: float
    savings_low: float
    savings_high: float
    windows: Mapping[str, Kept]
    is_shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoThreshold:
    """No threshold can keep the promise: the route answers with its baseline.

    Attributes:
        reason: a sentence for people.
        best_bound: the lowest bound that any threshold has; None when the confidence was never computed.
        needed: the `max_loss` asked for.
    """

    reason: str
    best_bound: float | None
    needed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Core-seconds of one model per token, measured on an unloaded server."""

    uncached_input_s: float
    output_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One logistic model on standardised features; `tokens` is None for the whole answer.

    Attributes:
        auc: of the out-of-fold confidence for "not worse than the large model", over the answers that reach the window.
    """

    name: str
    tokens: int | None
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    auc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A task: a cluster of calibration questions, named after what most of them are.

    Attributes:
        prior: log-odds that the small answer to one of its questions is not worse, pulled towards the whole's.
    """

    name: str
    questions: int
    prior: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Output tokens of the large model over those of the small one, same question."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The parsed artefact: what was measured on two models, for any promise.

    Attributes:
        small: the small model's served name.
        large: the large model's, which is the baseline.
        made: ISO date.
        questions: how many rows it rests on.
        temperature: the sampling temperature of its answers.
        max_tokens: the longest answer it has seen.
        source: where the questions come from, with licences, and what this says nothing about.
        small_quality: mean quality of the small model alone, in [0, 1].
        large_quality: of the large model alone.
        embedder: id of the embedder that `centroids` were made with.
        centroids: int8[tasks, 384] as base64, each row a direction.
        cutoff: a question less similar than this to every centroid is outside.
        steps: the grid, strictest threshold first.
        signal: what its windows look at.
        method: how the model was asked again, for signals that ask again; another wording is another signal.
        max_characters: the longest answer it has seen, for judges of the text.
        turns: the longest conversation among its questions, in messages beside instructions; 1 where it has none.
        ladder: of a calibration fitted together with those of other rungs, all models' served names, the baseline last;
            its steps then hold what the whole ladder does. Empty for one fitted alone.
        fit: what the calibrations of one such fit have in common, and no others.
    """

    small: str
    large: str
    made: str
    questions: int
    temperature: float
    max_tokens: int
    source: str
    small_quality: float
    large_quality: float
    small_rates: Rates
    large_rates: Rates
    output_ratio: Quantiles
    embedder: str
    tasks: tuple[Group, ...]
    centroids: str
    cutoff: float
    windows: tuple[Window, ...]
    steps: tuple[Step, ...]
    signal: Signal = Signal.LOGPROBS
    max_characters: int = 0
    method: str = ""
    turns: int = 1
    ladder: tuple[str, ...] = ()
    fit: str = ""

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read and check an artefact.

        Raises:
            CalibrationError: it is missing, is not JSON of this shape, or its digest does not fit its content.
        """
        again = "make it again with `faregate calibrate`"
        row = read_sealed(path, what="calibration", again=again, error=CalibrationError)
        try:
            calibration = msgspec.convert(row, cls)
        except msgspec.ValidationError as error:
            raise CalibrationError(f"calibration {path} has another version's shape: {error}; {again}") from error
        if len(calibration.centres()) != len(calibration.tasks):
            raise CalibrationError(f"calibration {path} has not one centroid a task; {again}")
        return calibration

    def dump(self) -> str:
        """Return the artefact's text, digest included; `load` accepts exactly this."""
        row = json.loads(json.dumps(asdict(self)))
        return seal(row)

    def centres(self) -> NDArray[np.float32]:
        """Return the centroids as float32[tasks, 384], rows of unit length."""
        values = np.frombuffer(base64.b64decode(self.centroids), dtype=np.int8)
        rows = values.reshape(-1, 384).astype(np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def judge(self, *, max_loss: float, confidence: float, is_shared: bool = False) -> Judge | NoThreshold:
        """Return the judge with the loosest threshold that keeps the promise.

        Args:
            max_loss: the expected quality that may be lost against the large model, in [0, 1).
            confidence: 1 - delta, in (0, 1); taken up to the next one that was computed.
            is_shared: other rungs are judged too, so that this one answers only a part of what it would alone.
        """
        first = next(iter(self.steps[0].windows.values()))
        known = sorted(first.harm_bounds if is_shared else first.bounds, key=float)
        if not known:
            reason = "this calibration has no bounds for a ladder with several judged rungs; make it again"
            return NoThreshold(reason=reason, best_bound=None, needed=max_loss)
        level = next((name for name in known if float(name) >= confidence), None)
        if level is None:
            reason = f"this calibration knows bounds up to a confidence of {known[-1]}, not {confidence}"
            return NoThreshold(reason=reason, best_bound=None, needed=max_loss)
        step = fixed_sequence(((step, step.bound(level, is_shared=is_shared)) for step in self.steps), max_loss)
        if step is None:
            best = min(step.bound(level, is_shared=is_shared) for step in self.steps)
            reason = (
                f"{self.questions} questions can promise a loss of at most {best:.4f} at a confidence of {level}, not"
                f" {max_loss}; ask for more loss, for less confidence, or calibrate with more questions"
            )
            return NoThreshold(reason=reason, best_bound=best, needed=max_loss)
        return Judge(self, step, self._promise(step, max_loss=max_loss, level=level, is_shared=is_shared))

    def _promise(self, step: Step, *, max_loss: float, level: str, is_shared: bool) -> Promise:
        windows = step.windows.values()
        dearest = min(windows, key=lambda kept: kept.savings)
        return Promise(
            max_loss=max_loss,
            confidence=float(level),
            bound=step.bound(level, is_shared=is_shared),
            mean_loss=max(kept.mean_loss for kept in windows),
            n=self.questions,
            threshold=step.threshold,
            share_kept=min(kept.share for kept in windows),
            savings=dearest.savings,
            savings_low=dearest.savings_low,
            savings_high=dearest.savings_high,
            windows=step.windows,
            is_shared=is_shared,
        )


class Judge:
    """Decides about a small rung's answers; make one with `Calibration.judge`. Stateless, microseconds a call."""

    __slots__ = ("_calibration", "_centres", "_models", "_priors", "_step", "_takes_tools", "_tools", "promise")

    def __init__(
        self, calibration: Calibration, step: Step, promise: Promise, *, takes_tools: bool | None = None
    ) -> None:
        self.promise = promise
        self._calibration = calibration
        self._step = step
        self._centres = calibration.centres()
        self._priors = {group.name: group.prior for group in calibration.tasks}
        whole = next(window for window in calibration.windows if window.name == WHOLE)
        self._tools = next((_Logistic(window) for window in calibration.windows if window.name == TOOLS), None)
        self._takes_tools = self._tools is not None if takes_tools is None else takes_tools
        partial = sorted((w.tokens, _Logistic(w)) for w in calibration.windows if w.tokens is not None)
        self._models = (_Logistic(whole), tuple(reversed(partial)))

    @property
    def needs(self) -> frozenset[Capability]:
        """Return what a model must be able to do for its answers to be weighed."""
        return frozenset({Capability.LOGPROBS}) if self.signal is Signal.LOGPROBS else frozenset()

    @property
    def signal(self) -> Signal:
        """Return what it looks at."""
        return self._calibration.signal

    @property
    def method(self) -> str:
        """Return how its model is asked again; "" where it is not."""
        return self._calibration.method

    @property
    def reads_whole(self) -> bool:
        """Tell whether it looks at nothing before an answer's end."""
        return self._reads_text or not self._models[1]

    @property
    def _reads_text(self) -> bool:
        return self.signal is not Signal.LOGPROBS

    @property
    def turns(self) -> int:
        """Return the longest conversation of its calibration, in messages beside instructions."""
        return self._calibration.turns

    @property
    def ladder(self) -> tuple[str, ...]:
        """Return the served names of the models that it was fitted together with; empty when it was fitted alone."""
        return self._calibration.ladder

    @property
    def speaks_for_tools(self) -> bool:
        """Tell whether it weighs answers to requests that offer tools: its calibration saw some, or audits did."""
        return self._takes_tools

    def taking_tools(self, is_so: bool) -> Judge:
        """Return this judge for requests that offer tools, or not for them, whatever its calibration has seen.

        Without a window of their own their answers are weighed by that of whole answers: what that is worth, verdicts
        have to say.
        """
        return Judge(self._calibration, self._step, self.promise, takes_tools=is_so)

    def wants_probe(self, evidence: Evidence) -> bool:
        """Tell whether its model must be asked again before an answer can be weighed; False if nothing would help."""
        return self._refusal(evidence) is Reason.NO_PROBE

    @property
    def cutoff(self) -> float:
        """Return the similarity below which a question is outside."""
        return self._calibration.cutoff

    @property
    def loss_when_kept(self) -> float:
        """Estimate the quality lost by an answer that is kept: the worst window's mean, on calibration questions."""
        return max((kept.mean_loss / kept.share for kept in self._step.windows.values() if kept.share), default=0.0)

    @property
    def large_quality(self) -> float:
        """Return the baseline's mean quality on the calibration's questions."""
        return self._calibration.large_quality

    def tightened(self, max_loss: float) -> Judge | NoThreshold:
        """Return the judge for a smaller loss at the same confidence; itself when `max_loss` asks for no less."""
        promise = self.promise
        if max_loss >= promise.max_loss:
            return self
        found = self._calibration.judge(max_loss=max_loss, confidence=promise.confidence, is_shared=promise.is_shared)
        if not isinstance(found, Judge):
            return found
        # What verdicts asked for stays asked for, whatever the calibration knows of the smaller loss. A form that they
        # opened was opened for the route's own loss; one that they closed stays closed.
        return found.taking_tools(found.speaks_for_tools and self._takes_tools).at_least(promise.threshold)

    @property
    def certificate(self) -> str:
        """Name what an answer kept by it was kept for: another calibration, signal or threshold is another name."""
        known = self._calibration
        parts = (known.small, known.large, known.made, known.signal, known.method, known.windows, self._step.threshold)
        named = repr(parts) + known.fit
        return hashlib.sha256(named.encode()).hexdigest()[:16]

    def at_least(self, threshold: float) -> Judge:
        """Return this judge with a threshold that is no lower: what a route's own verdicts ask for.

        It starts small nowhere else than before, and not where so strict a judge would not pay.
        """
        highest = max(threshold, self._step.threshold)
        near = min(
            (step for step in self._calibration.steps if step.threshold >= highest),
            key=lambda step: step.threshold,
            default=self._step,
        )
        step = replace(
            self._step,
            threshold=highest,
            keep_rates=near.keep_rates,
            start_small=tuple(a and b for a, b in zip(self._step.start_small, near.start_small, strict=True)),
        )
        promise = replace(self.promise, threshold=highest)
        return Judge(self._calibration, step, promise, takes_tools=self._takes_tools)

    def weigh(self, evidence: Evidence, task: str | None = None) -> Verdict:
        """Return the verdict on an answer as far as it is known; call it once, when the hold-back ends.

        Args:
            evidence: the answer.
            task: the name that `place` gave; without it the question counts as one of the least promising task's.
        """
        refusal = self._refusal(evidence)
        if refusal is not None:
            return Verdict(confidence=0.0, is_kept=False, window="none", reason=refusal)
        whole, partial = self._models
        count = len(evidence.tokens)
        if evidence.is_finished:
            model, seen = (self._tools or whole) if evidence.has_tools else whole, count
        else:
            seen, model = next((size, model) for size, model in partial if size <= count)
        prior = self._priors.get(task or "", min(self._priors.values()))
        if self._reads_text:
            looks = text_features(evidence.text, is_json=evidence.is_json, prior=prior, probe=evidence.probe or ())
        else:
            looks = features(evidence.tokens[:seen], is_json=evidence.is_json, prior=prior)
        confidence = model.confidence(looks)
        is_kept = confidence >= self._step.threshold
        reason = Reason.ABOVE if is_kept else Reason.BELOW
        return Verdict(confidence=confidence, is_kept=is_kept, window=model.name, reason=reason)

    def place(self, vector: NDArray[np.float32]) -> Task | Outside:
        """Return the task a question belongs to.

        Args:
            vector: float32[384] of unit length, the embedding of the last user text's first 256 tokens.
        """
        similarities = self._centres @ vector
        nearest = int(similarities.argmax())
        similarity = float(similarities[nearest])
        if similarity < self._calibration.cutoff:
            return Outside(similarity=similarity, cutoff=self._calibration.cutoff)
        return Task(
            name=self._calibration.tasks[nearest].name,
            similarity=similarity,
            keep_rate=self._step.keep_rates[nearest],
            start_small=self._step.start_small[nearest],
        )

    def _refusal(self, evidence: Evidence) -> Reason | None:
        is_cut = evidence.finish_reason == "length"
        usual = _ENDS if evidence.has_tools else {"stop"}
        checks = (
            *(self._unread_text(evidence) if self._reads_text else self._unread_tokens(evidence)),
            *(self._unread_tools(evidence) if evidence.has_tools else ()),
            (evidence.is_json and not evidence.is_finished, Reason.JSON_UNFINISHED),
            (evidence.is_json and is_cut, Reason.JSON_CUT),
            (evidence.is_json and not evidence.is_valid, Reason.JSON_INVALID),
            (evidence.is_finished and not is_cut and evidence.finish_reason not in usual, Reason.UNUSUAL_END),
            (self._is_too_long(evidence), Reason.TOO_LONG),
            (not evidence.is_finished and not self._has_window(evidence), Reason.TOO_FEW_TOKENS),
            # The last, so that nobody is asked about an answer which would not be kept anyway.
            (self.signal.asks_again and evidence.probe is None, Reason.NO_PROBE),
        )
        return next((reason for is_so, reason in checks if is_so), None)

    @staticmethod
    def _unread_tokens(evidence: Evidence) -> tuple[tuple[bool, Reason], ...]:
        return ((not evidence.tokens, Reason.NO_LOGPROBS),)

    def _unread_tools(self, evidence: Evidence) -> tuple[tuple[bool, Reason], ...]:
        return (
            (not self._takes_tools, Reason.TOOLS),
            (not evidence.is_finished, Reason.TOOLS_UNFINISHED),
            (not evidence.is_valid, Reason.CALL_INVALID),
        )

    @staticmethod
    def _unread_text(evidence: Evidence) -> tuple[tuple[bool, Reason], ...]:
        return (
            (not evidence.is_finished, Reason.UNFINISHED),
            (is_refusal(evidence.text), Reason.REFUSED),
        )

    def _is_too_long(self, evidence: Evidence) -> bool:
        if self._reads_text:
            return len(evidence.text) > self._calibration.max_characters
        return evidence.is_finished and len(evidence.tokens) > self._calibration.max_tokens

    def _has_window(self, evidence: Evidence) -> bool:
        partial = self._models[1]
        return bool(partial) and len(evidence.tokens) >= partial[-1][0]


def is_refusal(text: str) -> bool:
    """Tell whether an answer says nothing, or that it will not be given."""
    return not text.strip() or _REFUSAL.search(text[:_OPENING_CHARACTERS]) is not None


def text_features(text: str, *, is_json: bool, prior: float, probe: Sequence[float] = ()) -> NDArray[np.float64]:
    """Return float64[len(TEXT_FEATURES) + len(probe)]: what an answer's form says of it, and asking its model again.

    The task's `prior` is the last.
    """
    words = text.split()
    pairs = list(pairwise(words))
    return np.array(
        [
            np.log1p(len(text)),
            np.log1p(text.count("\n")),
            np.log1p(len(_HEDGE.findall(text))),
            float(text.rstrip().endswith("?")),
            sum(letter.isdigit() for letter in text) / max(1, len(text)),
            1 - len(set(pairs)) / max(1, len(pairs)) if pairs else 0.0,
            float(is_json),
            *probe,
            prior,
        ]
    )


TEXT_FEATURES = (
    "log_characters",
    "log_lines",
    "log_hedges",
    "ends_with_question",
    "share_of_digits",
    "share_of_repeated_pairs",
    "is_json",
    "task_prior",
)
_ENDS = frozenset({"stop", "tool_calls", "function_call"})
_OPENING_CHARACTERS = 300
"""Whoever refuses says so first; the same words deep in a text are quoted or narrated."""
_REFUSAL = re.compile(
    r"\b(?:i(?:['\u2019]m| am) (?:sorry|unable|not able|not allowed)"
    r"|i (?:can(?:not|['\u2019]t)|won['\u2019]t|will not|must decline|do not know|don['\u2019]t know)"
    r"|as an ai\b|unable to (?:help|assist|answer|comply))",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|might|could be|not sure|unsure|uncertain|unclear|i think|i believe|i guess"
    r"|it seems|it depends|roughly|as far as i know)\b",
    re.IGNORECASE,
)


def features(tokens: Sequence[TokenLogprob], *, is_json: bool, prior: float) -> NDArray[np.float64]:
    """Return float64[len(FEATURES)]: what the logistic models look at. Natural logarithms, at least one token.

    The task's `prior` is among them: equal log-probabilities mean more on a message to read than on a capital to know.

    Where the upstream gave no alternatives, the rest of the probability stands for one alternative.
    """
    # In plain numbers: numpy costs microseconds a call, and there would be ten of them for every token.
    logprobs = sorted(max(token.logprob, _FLOOR) for token in tokens)
    margins = [_margin(token) for token in tokens]
    entropies = [_entropy(token) for token in tokens]
    count = len(tokens)
    return np.array(
        [
            fsum(logprobs) / count,
            logprobs[0],
            _quantile(logprobs, 0.1),
            bisect_left(logprobs, _HALF) / count,
            margins[0],
            fsum(margins) / count,
            min(margins),
            fsum(entropies) / count,
            max(entropies),
            log(count),
            float(is_json),
            prior,
        ]
    )


FEATURES = (
    "mean_logprob",
    "min_logprob",
    "logprob_p10",
    "share_below_half",
    "first_margin",
    "mean_margin",
    "min_margin",
    "mean_entropy",
    "max_entropy",
    "log_length",
    "is_json",
    "task_prior",
)
_FLOOR = -20.0
"""A constrained token can be all but impossible to the model; one such must not drown the rest."""
_HALF = float(np.log(0.5))
_MARGIN_CEILING = 10.0
"""Beyond e^10 to 1 a margin says "certain", whatever its size."""


class _Logistic:
    __slots__ = ("_centre", "_intercept", "_scale", "_weights", "name")

    def __init__(self, window: Window) -> None:
        self.name = window.name
        self._centre, self._scale = np.array(window.centre), np.array(window.scale)
        self._weights, self._intercept = np.array(window.weights), window.intercept

    def __lt__(self, other: _Logistic) -> bool:
        return self.name < other.name

    def confidence(self, row: NDArray[np.float64]) -> float:
        score = float(self._weights @ ((row - self._centre) / self._scale)) + self._intercept
        return float(1 / (1 + np.exp(-np.clip(score, -30, 30))))


def _margin(token: TokenLogprob) -> float:
    if len(token.top) >= 2:
        return min(token.top[0] - token.top[1], _MARGIN_CEILING)
    rest = log1p(-exp(min(token.logprob, -1e-9)))
    return min(max(token.logprob - rest, 0.0), _MARGIN_CEILING)


def _entropy(token: TokenLogprob) -> float:
    total = entropy = 0.0
    for logprob in token.top or (token.logprob,):
        share = exp(logprob)
        total += share
        if share > 0:
            entropy -= share * logprob
    rest = 1.0 - total
    return entropy - rest * log(rest) if rest > 0 else entropy


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Return a quantile with linear interpolation, as numpy's."""
    place = share * (len(ascending) - 1)
    low = int(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (place - low)
