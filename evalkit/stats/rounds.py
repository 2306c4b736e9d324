"""The order in which a sequential test consumes its pairs."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Unit = TypeVar("Unit")
Task = TypeVar("Task", bound=Hashable)


def rounds(tasks: Mapping[Task, Sequence[Unit]], seed: int) -> list[list[Unit]]:
    """Return the planned order: a seeded shuffle, in rounds that have one scene of each task.

    However the tasks differ, the mean of a round is the mean of the split, so a test with interim looks at the ends of
    rounds is exact. Given the tasks' means μ of D and λ held for the round, a round multiplies the wealth by Π(1 - λ μ)
    <= (1 - λ mean μ)^K in expectation (the geometric mean is at most the arithmetic one). Looks inside a round are
    nearly exact; see docs/gate-statistics.md.

    Args:
        tasks: each task's units (scenes); the statement above needs the same number for every task.
        seed: seed of the shuffle.

    Returns:
        The rounds. If the tasks have different numbers of units, each unit of the shuffled whole is a round of its own,
        and the tested mean is that over the planned units.
    """
    rng = random.Random(seed)
    shuffled = {task: rng.sample(list(units), len(units)) for task, units in tasks.items()}
    if len({len(units) for units in shuffled.values()}) > 1:
        plain = [unit for units in shuffled.values() for unit in units]
        return [[unit] for unit in rng.sample(plain, len(plain))]
    return [rng.sample(one, len(one)) for one in zip(*shuffled.values(), strict=True)]
