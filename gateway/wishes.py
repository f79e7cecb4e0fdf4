"""What a client may ask of a route's quality: `x-faregate-quality: max_loss=0.01`, which only ever tightens it.

A larger loss than the route's own changes nothing: the operator states the promise, and a client that could loosen it
would break it for the reports. `max_loss=0` is the baseline's answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from router.by_prompt import ByPrompt
from router.strategy import Cascade

if TYPE_CHECKING:
    from gateway.journey import Lane


def tightened(lane: Lane, max_loss: float | None) -> Lane:
    """Return a route's lane under the client's loss, or as it is where that asks for no less.

    Its answers are cached apart by the thresholds they were kept at: a stricter client is not served what a laxer one
    was content with.
    """
    quality, strategy = lane.route.quality, lane.strategy
    if max_loss is None or not isinstance(strategy, Cascade | ByPrompt):
        return lane
    if max_loss >= (quality.max_loss if quality is not None else 1.0):
        return lane
    strict = strategy.tightened(max_loss)
    if isinstance(strict, ByPrompt):
        return lane  # its threshold keeps that loss as well
    thresholds = (f"{each.model} from {each.judge.promise.threshold:g}" for each in strict.judged)
    return replace(
        lane,
        strategy=strict,
        judges={each.model: each.judge for each in strict.judged},
        answers=(*lane.answers, "tightened", *thresholds),
    )
