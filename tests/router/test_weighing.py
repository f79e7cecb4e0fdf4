"""A trained artefact's judge says of one answer what the replay said of all, and keeps nothing that records lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.words import ModelId, TokenLogprob
from policies.signals import Signal
from router.artefact import Artefact, ArtefactError
from router.estimators import Mode
from router.foresight import Foresight
from router.judge import Evidence, Reason
from router.train_artefact import make
from router.train_outcomes import TrainingError
from router.train_records import Outcomes, read_records
from router.train_replay import replay
from router.weighing import Told, Weigher
from tests.router.foreseeing import a_promise
from tests.router.outcomes import rows, some, vectors_of, write

LADDER = tuple(ModelId(name) for name in ("small", "middle", "large"))


def negative(read: Outcomes) -> Outcomes:
    """Return records whose signals could be log-probabilities."""
    return replace(read, signal=np.minimum(read.signal, -0.01))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weighing")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Artefact:
    read = negative(some(folder, 240, models=LADDER))
    made = make(
        read, vectors_of(read), mode=Mode.COMBINED, max_loss=None, confidence=0.9, made="2026-11-22", source="made up"
    )
    return replace(made, promise=a_promise(setting=len(made.estimators.settings) // 2))


@pytest.fixture(scope="module")
def foresight(folder: Path, trained: Artefact) -> Foresight:
    (folder / "own.json").write_text(trained.dump())
    return Foresight.load(folder / "own.json", name="own.json", ladder=LADDER)


@pytest.fixture(scope="module")
def told(folder: Path, foresight: Foresight) -> Told:
    new = some(folder, 60, seed=5, models=LADDER)
    row = next(row for row, prompt in enumerate(new.prompts) if prompt.startswith("topic0"))
    found = foresight(new.prompts[row], vectors_of(new)[row])
    assert found.told is not None
    return found.told


def evidence(logprob: float = -0.3, *, tokens: int = 10, **fields: object) -> Evidence:
    usual: dict[str, object] = {"is_finished": True, "finish_reason": "stop", **fields}
    return Evidence(tokens=(TokenLogprob(logprob, ()),) * tokens, **usual)  # type: ignore[arg-type]  # as named


def test_served_answers_end_on_the_rungs_that_the_replay_gave_them(folder: Path, foresight: Foresight):
    new = negative(some(folder, 80, seed=1, models=LADDER))
    vectors = vectors_of(new)
    artefact = Artefact.load(folder / "own.json")
    assert artefact.promise is not None
    expected = replay(artefact.estimators, new, vectors)
    judges = foresight.judges(LADDER)
    served = []
    for row, (prompt, vector) in enumerate(zip(new.prompts, vectors, strict=True)):
        seen = foresight(prompt, vector)
        rung = LADDER[seen.start or 0]
        while rung in judges:
            signal = new.signal[row, LADDER.index(rung)]
            verdict = judges[rung].weigh(evidence(signal), seen.told)
            if verdict.goes_to is None:
                break
            rung = verdict.goes_to
        served.append(new.quality[row, LADDER.index(rung)])
    assert served == expected.quality[artefact.promise.setting].tolist()
    assert 0 < np.mean(expected.calls[artefact.promise.setting]) < 1


@pytest.mark.parametrize("setting", [0, 40, -1])
@pytest.mark.parametrize("rung", [0, 1])
def test_one_answer_weighs_what_it_does_among_many(folder: Path, trained: Artefact, rung: int, setting: int):
    estimators = trained.estimators
    new = negative(some(folder, 40, seed=2, models=LADDER))
    look = estimators.look(vectors_of(new), new.prompts)
    signals, tokens = new.signal[:, rung], new.output_tokens[:, rung]
    every = estimators.weigh(look, rung, signals, tokens)
    weigher = Weigher(estimators, rung=rung, setting=range(len(estimators.settings))[setting])
    for row, signal in enumerate(signals):
        alone = estimators.look(vectors_of(new)[row : row + 1], new.prompts[row : row + 1])
        one = weigher.weigh(weigher.told(alone), int(alone.clusters[0]), signal=signal, tokens=tokens[row])
        assert one.values == pytest.approx(estimators.values(every, setting)[row], rel=1e-6, abs=1e-6)
        assert one.qualities == pytest.approx(every.quality[row], abs=1e-6)
        assert one.usd[1:] == pytest.approx(every.usd[row], rel=1e-6)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (evidence(tokens=0), Reason.NO_LOGPROBS),
        (evidence(is_finished=False, finish_reason=None), Reason.UNFINISHED),
        (evidence(finish_reason="length"), Reason.UNUSUAL_END),
        (evidence(tokens=11), Reason.TOO_LONG),
        (evidence(-0.001), Reason.UNSEEN_SIGNAL),
        (evidence(-11.0), Reason.UNSEEN_SIGNAL),
    ],
)
def test_what_no_record_has_is_not_kept_and_goes_to_the_baseline(
    foresight: Foresight, told: Told, seen: Evidence, reason: Reason
):
    verdict = foresight.judges(LADDER)[LADDER[0]].weigh(seen, told)
    assert (verdict.is_kept, verdict.reason, verdict.goes_to) == (False, reason, "large")


def test_an_answer_whose_prompt_was_not_foreseen_is_not_kept(foresight: Foresight):
    verdict = foresight.judges(LADDER)[LADDER[0]].weigh(evidence(), None)
    assert (verdict.is_kept, verdict.reason) == (False, Reason.UNFORESEEN)


def test_a_surer_answer_is_kept_where_an_unsure_one_is_not(foresight: Foresight, told: Told):
    judge = foresight.judges(LADDER)[LADDER[0]]
    sure, unsure = (judge.weigh(evidence(logprob), told) for logprob in (-0.02, -1.8))
    assert (sure.is_kept, unsure.is_kept) == (True, False)
    assert sure.confidence > unsure.confidence
    assert [way.model for way in sure.ways] == list(LADDER)
    assert unsure.is_barred


def test_verdicts_may_ask_for_more_confidence_and_never_for_less(foresight: Foresight, told: Told):
    judge = foresight.judges(LADDER)[LADDER[0]]
    strict = judge.at_least(1.1)
    kept = strict.weigh(evidence(-0.02), told)
    assert (kept.is_kept, kept.is_barred, kept.goes_to) == (False, False, "large")
    assert strict.at_least(0.1).promise.threshold == 1.1
    assert strict.certificate != judge.certificate


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda one: replace(one, promise=None), "holds no threshold"),
        (lambda one: replace(one, answers=None), "not known to be the answers' mean log-probability"),
        (lambda one: replace(one, answers=replace(one.answers, signal=None)), "train it with `--signal"),
        (lambda one: replace(one, answers=replace(one.answers, lowest=(-1.0,))), "does not tell of the answers"),
        (lambda one: replace(one, promise=a_promise(setting=10_000)), "names setting 10000"),
        (lambda one: replace(one, promise=a_promise(setting=-1)), "names setting -1"),
    ],
)
def test_an_artefact_that_cannot_judge_is_refused_with_the_reason(
    folder: Path, trained: Artefact, spoil: Callable[[Artefact], Artefact], said: str
):
    (folder / "spoilt.json").write_text(spoil(trained).dump())
    with pytest.raises(ArtefactError, match=said):
        Foresight.load(folder / "spoilt.json", name="spoilt", ladder=LADDER)


def test_records_whose_signal_is_no_log_probability_make_an_artefact_that_is_not_served(folder: Path):
    read = some(folder, 120, seed=3)
    usual = {"mode": Mode.CASCADE, "max_loss": None, "confidence": 0.9, "made": "2026-11-22", "source": "made up"}
    assert read.signal.max() > 0
    assert make(read, vectors_of(read), **usual).answers.signal is None
    with pytest.raises(TrainingError, match="no mean log-probability is above 0"):
        make(read, vectors_of(read), **usual, is_logprob=True)


def test_lengths_that_only_some_records_tell_are_not_looked_at(folder: Path):
    told = rows(120, seed=4)
    told[6]["output_tokens"] = None
    read = negative(read_records([write(folder / "part.jsonl", told)], ("small", "large")))
    made = make(
        read, vectors_of(read), mode=Mode.CASCADE, max_loss=None, confidence=0.9, made="2026-11-22", source="made up"
    )
    assert made.answers is not None
    assert (made.answers.signal, made.answers.most_tokens) == (Signal.LOGPROBS, (0,))
    assert made.output_ratios == (None,)
