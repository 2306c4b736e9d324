"""The episode: the unit of running, retrying, resuming, counting and comparing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Episode:
    """One attempt at one scene of one task. Its outcome depends on these fields and the policy alone.

    Attributes:
        suite: the suite's name, e.g. ``"libero"``.
        split: the split's name inside the suite, e.g. ``"object"``.
        task: the task's name inside the split.
        scene: index of the fixed scene (initial state, placement, grid cell), from 0.
        seed: the protocol's simulator seed, set before the scene is built.
        repeat: 0 for the first attempt at the scene; a higher number changes only a policy's random samples.
    """

    suite: str
    split: str
    task: str
    scene: int
    seed: int
    repeat: int = 0

    def __post_init__(self) -> None:
        for name in ("scene", "seed", "repeat"):
            if getattr(self, name) < 0:
                raise ValueError(f"episode {name} must be 0 or more, got {getattr(self, name)}")

    @property
    def id(self) -> str:
        """A stable, readable key: ``suite/split/task/scene/seed/repeat``."""
        return f"{self.suite}/{self.split}/{self.task}/{self.scene}/s{self.seed}/r{self.repeat}"

    @property
    def task_key(self) -> tuple[str, str]:
        """The unit that a simulator builds once: (split, task)."""
        return (self.split, self.task)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Episode:
        """Return the episode of :meth:`to_dict`. Raises TypeError if a field is missing or unknown."""
        return cls(**fields)
