"""What the number of episodes that a suite's protocol runs can and cannot show."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.episode import Episode
from evalkit.stats.power import (
    Question,
    detectable_paired,
    detectable_unpaired,
    half_width,
    mcnemar_power,
    threshold_alarms,
)
from evalkit.stats.simulation import CORRELATIONS
from evalkit.suite import Suite

THRESHOLD = 0.02  # "fail if it falls by more than two points"


@dataclass(frozen=True)
class Sensitivity:
    """One line: the headline's (split and task None), a split's, or that of one of its tasks. Fractions of 1.

    Attributes:
        split: None for the headline.
        task: None for a split.
        episodes: that the protocol runs.
        scenes: fixed scenes among them; repeats of a scene that cannot differ add nothing, so these count.
        half_width: half of the 95 % interval of the rate.
        unpaired: the smallest drop that is seen with the power asked for, against another sample of that size.
        paired: the same where both play the same scenes and their outcomes are independent.
        correlated: the same where scenes differ, so that outcomes agree more often.
        alarms: how often "fail if it falls by more than two points" fails a candidate that equals the baseline.
        power: how often McNemar's test sees the drop asked about, paired and independent; None where none was.
    """

    split: str | None
    task: str | None
    episodes: int
    scenes: int
    half_width: float
    unpaired: float | None
    paired: float | None
    correlated: float | None
    alarms: float
    power: float | None


def sensitivities(
    suite: Suite, rate: float, drop: float | None = None, alpha: float = 0.05, power: float = 0.8
) -> list[Sensitivity]:
    """The headline, then every split with its task of the fewest scenes, under the suite's protocol.

    Args:
        suite: whose plan it is. Chains count as solved or not: a length's interval is that of a rate with the same
            mean over the chain, times the chain, at most.
        rate: the baseline's success rate.
        drop: one to tell the power for.
        alpha: one-sided.
        power: that is wanted.
    """
    planned = suite.plan(splits=list(suite.splits))
    named = suite.headline.splits or list(suite.splits)
    counted: list[tuple[str | None, str | None, list[Episode]]] = []
    if not suite.headline.each_split and len(suite.splits) > 1:
        counted.append((None, None, [e for e in planned if e.split in named]))
    for split, section in suite.splits.items():
        whole = [e for e in planned if e.split == split]
        counted.append((split, None, whole))
        tasks = {task: [e for e in whole if e.task == task] for task in section.tasks}
        tasks = {task: episodes for task, episodes in tasks.items() if episodes}
        if len(tasks) > 1:
            counted.append((split, *min(tasks.items(), key=lambda item: len(item[1]))))
    known: dict[int, tuple[float | None, float | None, float | None]] = {}
    found = []
    for of, name, episodes in counted:
        scenes = len({(e.split, e.task, e.scene) for e in episodes})
        if scenes not in known:
            paired = [detectable_paired(scenes, rate, alpha, power, c) for c in CORRELATIONS.values()]
            known[scenes] = (detectable_unpaired(scenes, rate, alpha, power), paired[0], paired[1])
        seen = None if drop is None else mcnemar_power(scenes, Question(rate, drop, alpha, power))
        width, alarms = half_width(rate, scenes), threshold_alarms(rate, scenes, THRESHOLD)
        found.append(Sensitivity(of, name, len(episodes), scenes, width, *known[scenes], alarms, seen))
    return found
