"""In which order pairs are consumed, and how episodes that were not played as pairs become pairs."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

Unit = TypeVar("Unit")
Task = TypeVar("Task", bound=Hashable)


def rounds(tasks: Mapping[Task, Sequence[Unit]], seed: int) -> list[list[Unit]]:
    """The planned order of a sequential test: a seeded shuffle, in rounds that have one scene of each task.

    However tasks differ, a round's mean is the split's, so that a test that looks at the ends of rounds is exact: given
    the tasks' means μ of D, a round multiplies wealth by Π(1 - λ μ) <= (1 - λ mean μ)^K in expectation (the geometric
    mean is at most the arithmetic one), with λ held for the round. Looks inside a round are nearly so; see
    docs/gate-statistics.md.

    Args:
        tasks: each task's units (scenes), all of the same number for the above to hold.
        seed: of the shuffle.

    Returns:
        The rounds. Where tasks have different numbers of units, one round per unit of the plainly shuffled whole: the
        mean that is tested is then over planned units.
    """
    chance = random.Random(seed)
    shuffled = {task: chance.sample(list(units), len(units)) for task, units in tasks.items()}
    if len({len(units) for units in shuffled.values()}) > 1:
        plain = [unit for units in shuffled.values() for unit in units]
        return [[unit] for unit in chance.sample(plain, len(plain))]
    return [chance.sample(one, len(one)) for one in zip(*shuffled.values(), strict=True)]


def unpaired(
    candidate: Mapping[Task, Sequence[float]], baseline: Mapping[Task, Sequence[float]], seed: int
) -> Iterator[tuple[Task, float, bool]]:
    """Differences of two samples that were not played on the same scenes, paired at random within each task.

    Each outcome is used once, so that differences are independent and have the mean that paired ones would; only their
    spread is larger, and with it the number needed. The tasks' shorter sample limits the pairs; tasks that only one
    side has are left out.

    Args:
        candidate: each task's outcomes, 0 to 1.
        baseline: the same of the baseline.
        seed: of the pairing and of the order.

    Yields:
        The task, candidate - baseline, and whether the pair ends a round (see :func:`rounds`).
    """
    chance = random.Random(seed)
    pairs: dict[Task, list[tuple[Task, float]]] = {}
    for task in candidate:
        if task in baseline:
            sides = (chance.sample(list(side[task]), len(side[task])) for side in (candidate, baseline))
            pairs[task] = [(task, float(new) - float(old)) for new, old in zip(*sides, strict=False)]
    for one in rounds({task: found for task, found in pairs.items() if found}, seed):
        for place, (task, difference) in enumerate(one):
            yield task, difference, place == len(one) - 1
