"""Inference delay in virtual time: how many control steps pass between an observation and the chunk made from it.

Delay is counted in control steps, never measured while a run goes on, so a run has the same outcome on any machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np

_MS = re.compile(r"^(\d+(?:\.\d+)?)ms$")
_NORMAL = re.compile(r"^normal:(\d+(?:\.\d+)?)(?:ms)?:(\d+(?:\.\d+)?)ms$")
_FARTHEST = 4.0  # standard deviations: a normal delay never strays farther


@dataclass(frozen=True)
class Delay:
    """A delay model. Exactly one of the three ways to say it is used.

    Attributes:
        steps: a constant number of control steps.
        milliseconds: latencies, one of which is drawn for each inference; a single one is a constant.
        spread: (mean, standard deviation) of a normal distribution in ms, cut off at 0 and at four deviations.
    """

    steps: int | None = 0
    milliseconds: tuple[float, ...] = ()
    spread: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> Delay:
        """A delay as it is written on the command line.

        Args:
            text: ``3`` (control steps), ``80ms``, ``normal:80:15ms`` (mean and deviation), or ``trace:FILE``, a JSON
                list of latencies in ms, or an object with such a list under ``latency_ms``.

        Raises:
            ValueError: it is none of these, or the file is no such list.
        """
        if text.isdecimal():
            return cls(int(text))
        if match := _MS.match(text):
            return cls(None, (float(match[1]),))
        if match := _NORMAL.match(text):
            return cls(None, spread=(float(match[1]), float(match[2])))
        if text.startswith("trace:"):
            return cls(None, _trace(Path(text.removeprefix("trace:")).expanduser()))
        raise ValueError(f"{text!r} is no delay: write steps (3), 80ms, normal:80:15ms or trace:FILE")

    @property
    def constant(self) -> bool:
        """Whether every inference takes as long as the other."""
        return self.steps is not None or len(set(self.milliseconds)) == 1 or bool(self.spread and not self.spread[1])

    def typical(self, control_hz: float) -> int:
        """The delay in control steps that an executor plans for: the constant, or the median."""
        if self.steps is not None:
            return self.steps
        return _steps(self.spread[0] if self.spread else median(self.milliseconds), control_hz)

    def draw(self, key: str, control_hz: float) -> int:
        """The delay of one inference in control steps; ``key`` (episode and step) decides it, and nothing else."""
        if self.steps is not None:
            return self.steps
        seed = int.from_bytes(hashlib.sha256(f"delay:{key}".encode()).digest()[:8], "big")
        share = (seed + 0.5) / 2**64
        if self.spread is None:
            return _steps(self.milliseconds[int(share * len(self.milliseconds))], control_hz)
        mean, deviation = self.spread
        far = NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
        return _steps(max(0.0, mean + deviation * max(-_FARTHEST, min(_FARTHEST, far))), control_hz)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a trace by its hash, length and median as well as its values."""
        if self.steps is not None:
            return {"steps": self.steps}
        if self.spread is not None:
            return {"normal_ms": list(self.spread)}
        return {"milliseconds": list(self.milliseconds)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Delay:
        """The inverse of :meth:`to_dict`."""
        if "steps" in fields:
            return cls(int(fields["steps"]))
        if "normal_ms" in fields:
            mean, deviation = fields["normal_ms"]
            return cls(None, spread=(float(mean), float(deviation)))
        return cls(None, tuple(float(ms) for ms in fields["milliseconds"]))

    def __str__(self) -> str:
        """For people."""
        if self.steps is not None:
            return f"{self.steps} steps"
        if self.spread is not None:
            return f"{self.spread[0]:g} ± {self.spread[1]:g} ms"
        if self.constant:
            return f"{self.milliseconds[0]:g} ms"
        return f"{len(self.milliseconds)} latencies, median {median(self.milliseconds):g} ms"


def _steps(milliseconds: float, control_hz: float) -> int:
    """Whole control steps that cover a latency: a chunk that is late by a moment is late by a step."""
    return math.ceil(round(milliseconds * control_hz / 1000, 9))


def _trace(path: Path) -> tuple[float, ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    values = content.get("latency_ms") if isinstance(content, dict) else content
    numbers = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v) and v >= 0 for v in values
    )
    if not numbers or not values:
        raise ValueError(f"{path}: must be a JSON list of latencies in ms, or have one under latency_ms")
    return tuple(float(value) for value in values)
