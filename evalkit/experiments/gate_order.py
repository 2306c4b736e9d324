"""The order of a gate: results arrive in any order and enter the tests in the planned order.

A unit is a scene with all its repeats. The test takes their mean score, because repeats that cannot differ must not
count twice. Every stratum (a split that is a benchmark of its own, or the whole suite) has its own test. The planned
order is a seeded shuffle, so that early results (quick successes) do not enter first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evalkit.episode import Episode
from evalkit.records.record import Verdict, chain_length
from evalkit.stats.rounds import rounds
from evalkit.stats.sequential import SplitTests


class Unit(NamedTuple):
    """A scene of a task."""

    split: str
    task: str
    scene: int

    @classmethod
    def of(cls, episode: Episode) -> Unit:
        """Return the unit of an episode."""
        return cls(episode.split, episode.task, episode.scene)


Rounds = list[list[Unit]]


def planned_order(
    units: Iterable[Unit], strata: Mapping[str, str], seed: int, max_scenes: int | None
) -> dict[str, Rounds]:
    """Return each stratum's rounds (:func:`evalkit.stats.rounds.rounds`).

    The strata take turns, one round each, in the order of ``strata``. Only the first ``max_scenes`` units are kept.

    Args:
        units: the units that both runs have.
        strata: each split's stratum.
        seed: seed of the shuffle.
        max_scenes: limit on the units of all strata together; no limit if None.
    """
    tasks: dict[str, dict[tuple[str, str], list[Unit]]] = {name: {} for name in strata.values()}
    for unit in sorted(set(units)):
        tasks[strata[unit.split]].setdefault((unit.split, unit.task), []).append(unit)
    order: dict[str, Rounds] = {name: [] for name in tasks}
    whole = {name: rounds(by_task, seed) for name, by_task in tasks.items()}
    left = sum(len(one) for stratum in whole.values() for one in stratum) if max_scenes is None else max_scenes
    for turn in itertools.zip_longest(*whole.values(), fillvalue=[]):
        for name, one in zip(whole, turn, strict=True):
            if one[:left]:
                order[name].append(one[:left])
                left -= len(order[name][-1])
    return {name: stratum for name, stratum in order.items() if stratum}


def score(record: Verdict, chain: int | None) -> float | None:
    """Return 1 or 0, the share of a chain that was solved in a row, or None for an error."""
    if record.success is None:
        return None
    if not chain:
        return float(record.success)
    return chain_length(record.subtasks) / chain


class GateOrder:
    """A candidate's results, compared with a baseline's in the planned order."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        order: Mapping[str, Rounds],
        baseline: Mapping[Unit, float],
        tests: SplitTests,
        chain: int | None,
    ) -> None:
        """Start without results.

        Args:
            episodes: the candidate's planned episodes.
            order: by stratum, the tested units in rounds, in the planned order.
            baseline: the baseline's score of each tested unit, in [0, 1].
            tests: one test for each stratum.
            chain: sub-tasks per episode if episodes are chains, else None.
        """
        self.tests = tests
        self.skipped: list[Unit] = []
        self._strata = {unit: name for name, stratum in order.items() for one in stratum for unit in one}
        self._round_ends = {one[-1] for stratum in order.values() for one in stratum}
        turns = itertools.zip_longest(*order.values(), fillvalue=[])
        self._units = [unit for turn in turns for one in turn for unit in one]
        self._next = 0
        self._baseline = baseline
        self._chain = chain
        self._episodes: dict[Unit, list[Episode]] = {unit: [] for unit in self._units}
        for episode in episodes:
            if Unit.of(episode) in self._strata:
                self._episodes[Unit.of(episode)].append(episode)
        self._pending = {unit: len(repeats) for unit, repeats in self._episodes.items()}
        self._scores: dict[Episode, float | None] = {}  # None for an error

    def order(self) -> list[Episode]:
        """Return the episodes of the tested units, in playing order."""
        return [episode for unit in self._units for episode in self._episodes[unit]]

    def on_record(self, record: Verdict) -> None:
        """Take one result."""
        self.on_score(record.episode, score(record, self._chain))

    def on_score(self, episode: Episode, value: float | None) -> None:
        """Take an episode's score, None for an error. A unit with an error is skipped."""
        unit = Unit.of(episode)
        if unit not in self._strata:
            return
        if episode not in self._scores:
            self._pending[unit] -= 1
        self._scores[episode] = value
        while self._next < len(self._units) and self._advance(self._units[self._next]):
            self._next += 1

    def _advance(self, unit: Unit) -> bool:
        """Feed the next unit to its test. Return True if the one after it may follow."""
        test = self.tests.tests[self._strata[unit]]
        if self.verdict or test.verdict:
            return not self.verdict
        if self._pending[unit]:
            return False
        scores = [self._scores[episode] for episode in self._episodes[unit]]
        finished = [s for s in scores if s is not None]
        if len(finished) == len(scores):
            test.update(sum(finished) / len(finished) - self._baseline[unit], look=False)
        else:
            self.skipped.append(unit)
        if unit in self._round_ends:
            test.look()
        return True

    def needs(self, episode: Episode) -> bool:
        """Return True if the episode's result can still change the verdict."""
        return self._strata.get(Unit.of(episode)) in self.tests.undecided

    @property
    def verdict(self) -> str | None:
        """REGRESSION if any stratum is worse, PASS if all have passed, else None (undecided)."""
        return self.tests.verdict

    @property
    def errors(self) -> int:
        """Number of tested episodes that ended in errors."""
        return sum(value is None for value in self._scores.values())

    @property
    def episodes_done(self) -> int:
        """Number of tested episodes that have ended."""
        return len(self._scores)

    def missing(self) -> list[Episode]:
        """Return the episodes without a result that the verdict still needs."""
        return [e for e in self.order() if e not in self._scores and self.needs(e)]

    def planned(self, stratum: str) -> int:
        """Return a stratum's number of units."""
        return sum(name == stratum for name in self._strata.values())
