"""The rules that a manifest sets for the records of its journal: which episodes, how many steps, how long a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records.manifest import Manifest, PlannedTask
from evalkit.records.record import Record


@dataclass(frozen=True)
class PlanRules:
    """The rules of one run's records.

    Attributes:
        suite: the suite's name.
        seed: the simulator seed.
        tasks: the planned tasks by (split, task).
        max_steps: by split, the control steps after which an episode ends.
        chain: sub-tasks per episode if episodes are chains, else None.
        played: True if evalkit played the run. The steps of an imported run may be unknown, or counted otherwise.
    """

    suite: str
    seed: int
    tasks: Mapping[tuple[str, str], PlannedTask]
    max_steps: Mapping[str, int]
    chain: int | None
    played: bool

    @classmethod
    def of(cls, manifest: Manifest) -> PlanRules:
        """Return the rules of a manifest."""
        return cls(
            suite=manifest.fingerprint["suite"],
            seed=manifest.plan.seed,
            tasks={task.key: task for task in manifest.plan.tasks},
            max_steps={name: split["max_steps"] for name, split in manifest.suite["splits"].items()},
            chain=manifest.suite.get("chain"),
            played=manifest.origin is None,
        )

    def check(self, record: Record) -> None:
        """Raise ValueError, naming the episode and the field, for a record that this run cannot have."""
        episode = record.episode
        task = self.tasks.get(episode.task_key)
        if (
            (episode.suite, episode.seed) != (self.suite, self.seed)
            or task is None
            or episode.scene >= task.scenes
            or episode.repeat >= task.repeats
        ):
            raise ValueError(f"an episode that the manifest does not plan: {episode.id}")
        if self.played:
            least, most = (0 if record.error else 1), self.max_steps[episode.split]
            if record.steps is None or not least <= record.steps <= most:
                raise ValueError(f"{episode.id}: steps is {record.steps}, and an episode has {least} to {most}")
        if self.chain is not None and len(record.subtasks) > self.chain:
            raise ValueError(f"{episode.id}: {len(record.subtasks)} subtasks, and the chain has {self.chain}")
