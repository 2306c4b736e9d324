"""The referee of a gate: hears results in whatever order they come, weighs them in the planned order.

A unit is a scene with all its repeats: repeats that cannot differ must not count twice, so what is weighed is the mean
over them. Every stratum (a split that is a benchmark of its own, or all of the suite) has a test of its own, fed in the
planned order, a seeded shuffle: results that come early (quick successes) do not go first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evalkit.episode import Episode
from evalkit.records.journal import Record, chain_length
from evalkit.stats.rounds import rounds
from evalkit.stats.sequential import SplitTests


class Unit(NamedTuple):
    """A scene of a task."""

    split: str
    task: str
    scene: int

    @classmethod
    def of(cls, episode: Episode) -> Unit:
        """The unit that an episode belongs to."""
        return cls(episode.split, episode.task, episode.scene)


Rounds = list[list[Unit]]
_UNHEARD = -1.0  # no score is negative


def planned_order(units: Iterable[Unit], strata: Mapping[str, str], seed: int, cap: int | None) -> dict[str, Rounds]:
    """Each stratum's rounds (:func:`evalkit.stats.rounds.rounds`), all strata together of at most ``cap`` units.

    Strata come in the order of ``strata`` (by split) and are played in turn, a round each; ``cap`` cuts off the rest.
    """
    tasks: dict[str, dict[tuple[str, str], list[Unit]]] = {name: {} for name in strata.values()}
    for unit in sorted(set(units)):
        tasks[strata[unit.split]].setdefault((unit.split, unit.task), []).append(unit)
    found: dict[str, Rounds] = {name: [] for name in tasks}
    whole = {name: rounds(of, seed) for name, of in tasks.items()}
    left = sum(len(one) for each in whole.values() for one in each) if cap is None else cap
    for turn in itertools.zip_longest(*whole.values(), fillvalue=[]):
        for name, one in zip(whole, turn, strict=True):
            if one[:left]:
                found[name].append(one[:left])
                left -= len(found[name][-1])
    return {name: of for name, of in found.items() if of}


def score(record: Record, chain: int | None) -> float | None:
    """1 or 0, or the share of a chain that was solved in a row; None for an error."""
    if record.success is None:
        return None
    if not chain:
        return float(record.success)
    return chain_length(record.subtasks) / chain


class GateOrder:
    """Weighs one checkpoint's results against a baseline's."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        order: Mapping[str, Rounds],
        baseline: Mapping[Unit, float],
        tests: SplitTests,
        chain: int | None,
    ) -> None:
        """A referee that has heard nothing.

        Args:
            episodes: what is planned of the checkpoint that is judged.
            order: by stratum, the units that count, in the rounds in which they are weighed.
            baseline: the baseline's score of each of them, in [0, 1].
            tests: one for each stratum.
            chain: the sub-tasks of an episode, where episodes are chains.
        """
        self.tests = tests
        self.skipped: list[Unit] = []
        self._strata = {unit: name for name, of in order.items() for one in of for unit in one}
        self._last = {one[-1] for of in order.values() for one in of}
        turns = itertools.zip_longest(*order.values(), fillvalue=[])
        self._units = [unit for turn in turns for one in turn for unit in one]
        self._next = 0
        self._baseline = baseline
        self._chain = chain
        self._episodes: dict[Unit, list[Episode]] = {unit: [] for unit in self._units}
        for episode in episodes:
            if Unit.of(episode) in self._strata:
                self._episodes[Unit.of(episode)].append(episode)
        self._heard: dict[Episode, float | None] = {}

    def order(self) -> list[Episode]:
        """The episodes that count, in the order in which to play them."""
        return [episode for unit in self._units for episode in self._episodes[unit]]

    def on_record(self, record: Record) -> None:
        """Takes one result. An error has no weight: its unit is passed over, and counted."""
        if Unit.of(record.episode) not in self._strata:
            return
        self._heard[record.episode] = score(record, self._chain)
        while self._next < len(self._units) and self._weighed(self._units[self._next]):
            self._next += 1

    def _weighed(self, unit: Unit) -> bool:
        """Weighs a unit whose turn it is; says whether the next one's turn has come."""
        test = self.tests.tests[self._strata[unit]]
        if self.verdict or test.verdict:
            return not self.verdict
        heard = [self._heard.get(episode, _UNHEARD) for episode in self._episodes[unit]]
        if _UNHEARD in heard:
            return False
        scores = [s for s in heard if s is not None]
        if len(scores) == len(heard):
            test.update(sum(scores) / len(scores) - self._baseline[unit], look=False)
        else:
            self.skipped.append(unit)
        if unit in self._last:
            test.look()
        return True

    def needs(self, episode: Episode) -> bool:
        """Whether its result could still change the verdict."""
        return self._strata.get(Unit.of(episode)) in self.tests.undecided

    @property
    def verdict(self) -> str | None:
        """REGRESSION where any stratum is worse, PASS where every one has passed, else None: not clear yet."""
        return self.tests.verdict

    @property
    def errors(self) -> int:
        """Episodes that count and ended in errors."""
        return sum(heard is None for heard in self._heard.values())

    @property
    def heard(self) -> int:
        """Episodes that count and are over."""
        return len(self._heard)

    def missing(self) -> list[Episode]:
        """Episodes whose result is wanted and was not heard."""
        return [e for e in self.order() if e not in self._heard and self.needs(e)]

    def planned(self, stratum: str) -> int:
        """How many units a stratum has in all."""
        return sum(name == stratum for name in self._strata.values())
