"""The referee of a gate: hears results in whatever order they come, weighs them in the planned order.

A unit is a scene with all its repeats: repeats that cannot differ must not count twice, so what is weighed is the mean
over them. Every stratum (a split that is a benchmark of its own, or all of the suite) has a test of its own, fed in the
planned order of its units, a seeded shuffle: results that come early (quick successes) do not go first.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evalkit.episode import Episode
from evalkit.journal import Record
from evalkit.manifest import Manifest
from evalkit.sequential import PairedTest
from evalkit.suite import Headline

ALL = "all"  # the stratum of a suite that is one benchmark


class Unit(NamedTuple):
    """A scene of a task."""

    split: str
    task: str
    scene: int

    @classmethod
    def of(cls, episode: Episode) -> Unit:
        """The unit that an episode belongs to."""
        return cls(episode.split, episode.task, episode.scene)


def score(record: Record, chain: int | None) -> float | None:
    """1 or 0, or the share of a chain that was solved in a row; None for an error."""
    if record.success is None:
        return None
    if not chain:
        return float(record.success)
    return next((i for i, (_, solved) in enumerate(record.parts) if not solved), len(record.parts)) / chain


def shuffled(units: Iterable[Unit], seed: int) -> list[Unit]:
    """The planned order: whoever has the same units and seed has the same order."""
    ordered = sorted(set(units))
    random.Random(seed).shuffle(ordered)
    return ordered


def stratum_of(manifest: Manifest, split: str) -> str:
    """The stratum of a split: itself, where the suite's headline is a mean over splits; else that of all."""
    return split if Headline.model_validate(manifest.suite["headline"]).mean_of == "splits" else ALL


class Referee:
    """Weighs one checkpoint's results against a baseline's."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        order: Sequence[Unit],
        baseline: Mapping[Unit, float],
        strata: Mapping[str, str],
        tests: Mapping[str, PairedTest],
        chain: int | None,
    ) -> None:
        """A referee that has heard nothing.

        Args:
            episodes: what is planned of the checkpoint that is judged.
            order: the units that count, in the order in which they are weighed.
            baseline: the baseline's score of each of them, in [0, 1].
            strata: the stratum of each split.
            tests: one for each stratum.
            chain: the sub-tasks of an episode, where episodes are chains.
        """
        self._baseline = baseline
        self._strata = strata
        self._chain = chain
        self.tests = tests
        wanted = set(order)
        self._episodes: dict[Unit, list[Episode]] = {unit: [] for unit in order}
        for episode in episodes:
            if Unit.of(episode) in wanted:
                self._episodes[Unit.of(episode)].append(episode)
        self._heard: dict[Episode, float | None] = {}
        self._queues: dict[str, list[Unit]] = {name: [] for name in tests}
        for unit in reversed(order):
            self._queues[strata[unit.split]].append(unit)
        self.skipped: list[Unit] = []

    def order(self) -> list[Episode]:
        """The episodes that count, in planned order."""
        return [episode for episodes in self._episodes.values() for episode in episodes]

    def hear(self, record: Record) -> None:
        """Takes one result. An error has no weight: its unit is passed over, and counted."""
        if Unit.of(record.episode) not in self._episodes:
            return
        self._heard[record.episode] = score(record, self._chain)
        stratum = self._strata[record.episode.split]
        test, queue = self.tests[stratum], self._queues[stratum]
        while queue and test.verdict is None and all(e in self._heard for e in self._episodes[queue[-1]]):
            unit = queue.pop()
            scores = [self._heard[e] for e in self._episodes[unit]]
            judged = [s for s in scores if s is not None]
            if len(judged) < len(scores):
                self.skipped.append(unit)
            else:
                test.update(sum(judged) / len(judged) - self._baseline[unit])

    def wants(self, episode: Episode) -> bool:
        """Whether its result could still change the verdict."""
        undecided = self.tests[self._strata[episode.split]].verdict is None
        return self.verdict is None and undecided and Unit.of(episode) in self._episodes

    @property
    def verdict(self) -> str | None:
        """REGRESSION where any stratum is worse, PASS where every one has passed, else None: not clear yet."""
        found = [test.verdict for test in self.tests.values()]
        if "REGRESSION" in found:
            return "REGRESSION"
        return "PASS" if all(verdict == "PASS" for verdict in found) else None

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
        return [e for e in self.order() if e not in self._heard and self.wants(e)]

    def planned(self, stratum: str) -> int:
        """How many units a stratum has in all."""
        return sum(self._strata[unit.split] == stratum for unit in self._episodes)
