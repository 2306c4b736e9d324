"""Observations: a policy's specification of them, and one observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ObservationSpec:
    """The content of a policy's observations. Nothing else is rendered, computed or sent.

    Attributes:
        cameras: names of the suite's cameras to render for each observation.
        state: names of the suite's state vectors to read for each observation.
        oracle_steps: control steps of the suite's oracle to plan for each observation; 0 for any other policy.
    """

    cameras: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    oracle_steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"cameras": list(self.cameras), "state": list(self.state), "oracle_steps": self.oracle_steps}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ObservationSpec:
        """Return the specification of :meth:`to_dict`."""
        return cls(tuple(fields["cameras"]), tuple(fields["state"]), int(fields["oracle_steps"]))


@dataclass(frozen=True)
class Observation:
    """The input of a policy, taken at one instant of simulated time.

    Attributes:
        instruction: the task in words, as the suite gives it (a policy may re-word it for its prompt).
        images: camera name → (H, W, 3) uint8 RGB, oriented as the suite's ``suite.yaml`` says (LIBERO's are upside
            down, and policies turn them).
        state: vector name → (N,) float64; names, units and frames are in the suite's ``suite.yaml``.
        oracle_plan: (T, A), the oracle's next actions from here in the suite's dtype of actions; None unless the
            specification has ``oracle_steps``.
    """

    instruction: str
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    oracle_plan: np.ndarray | None = None

    def to_message(self) -> dict[str, Any]:
        """Return the fields as a wire message (arrays stay arrays)."""
        return {
            "instruction": self.instruction,
            "images": dict(self.images),
            "state": dict(self.state),
            "oracle_plan": self.oracle_plan,
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Observation:
        """Return the observation of :meth:`to_message`."""
        return cls(message["instruction"], message["images"], message["state"], message["oracle_plan"])
