"""The sensitivity of a suite's protocol: the drops that its number of episodes can show."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.episode import Episode
from evalkit.stats.power import (
    PowerAnalysis,
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
    """One row: the headline's (split and task None), a split's, or that of one of its tasks. Fractions of 1.

    Attributes:
        split: None for the headline.
        task: None for a split.
        episodes: episodes of the protocol.
        scenes: distinct scenes among them. Deterministic repeats add nothing, so the other fields use this number.
        half_width: half the width of the 95 % interval of the rate.
        unpaired: smallest drop detected with the requested power against an independent sample of the same size; None
            if there is none.
        paired: the same on the same scenes, with independent outcomes.
        correlated: the same with correlated outcomes, because scenes differ.
        alarms: false-alarm rate of "fail if it falls by more than two points".
        power: power of McNemar's test, paired and independent, for the given drop; None without one.
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
    """Return the headline, then every split with its task of the fewest scenes, under the suite's protocol.

    Args:
        suite: the suite. Chains count as solved or not: a length's interval is at most that of a rate with the same
            mean over the chain, times the chain.
        rate: the baseline's success rate.
        drop: a drop whose power is computed; None for none.
        alpha: one-sided level of the test.
        power: requested power.
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
    for split_name, task_name, episodes in counted:
        scenes = len({(e.split, e.task, e.scene) for e in episodes})
        if scenes not in known:
            paired = [detectable_paired(scenes, rate, alpha, power, c) for c in CORRELATIONS.values()]
            known[scenes] = (detectable_unpaired(scenes, rate, alpha, power), paired[0], paired[1])
        drop_power = None if drop is None else mcnemar_power(scenes, PowerAnalysis(rate, drop, alpha, power))
        width, alarms = half_width(rate, scenes), threshold_alarms(rate, scenes, THRESHOLD)
        found.append(
            Sensitivity(split_name, task_name, len(episodes), scenes, width, *known[scenes], alarms, drop_power)
        )
    return found
