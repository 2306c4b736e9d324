"""Inference delay in virtual time: the number of control steps between an observation and the chunk made from it.

Delay is counted in control steps and never measured during a run, so a run has the same outcome on any machine.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from evalkit.files import read_json

_MS = re.compile(r"^(\d+(?:\.\d+)?)ms$")
_NORMAL = re.compile(r"^normal:(\d+(?:\.\d+)?)(?:ms)?:(\d+(?:\.\d+)?)ms$")
_MAX_MS = 3_600_000.0  # an hour
_MAX_DEVIATIONS = 4.0  # a normal delay is cut off at so many standard deviations


@dataclass(frozen=True)
class Delay:
    """A delay model: exactly one of a constant, a list of latencies and a normal distribution.

    Attributes:
        steps: a constant number of control steps.
        milliseconds: latencies in ms, one of which is drawn for each inference; a single one is a constant.
        normal_ms: (mean, standard deviation) of a normal distribution in ms, cut off at 0 and at four deviations.
    """

    steps: int | None = 0
    milliseconds: tuple[float, ...] = ()
    normal_ms: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> Delay:
        """Parse a delay as it is written on the command line.

        Args:
            text: ``3`` (control steps), ``80ms``, ``normal:80:15ms`` (mean and deviation), or ``trace:FILE``, a JSON
                list of latencies in ms, or an object with such a list under ``latency_ms``.

        Raises:
            ValueError: the text has none of these forms, or the file holds no such list.
        """
        if re.fullmatch(r"\d{1,9}", text, re.ASCII):
            return cls(int(text))
        if match := _MS.match(text):
            return cls(None, (_checked_ms(match[1]),))
        if match := _NORMAL.match(text):
            return cls(None, normal_ms=(_checked_ms(match[1]), _checked_ms(match[2])))
        if text.startswith("trace:"):
            return cls(None, _read_trace(Path(text.removeprefix("trace:")).expanduser()))
        raise ValueError(f"{text!r} is not a delay: write steps (3), 80ms, normal:80:15ms or trace:FILE")

    @property
    def constant(self) -> bool:
        """True if every inference has the same delay."""
        return (
            self.steps is not None or len(set(self.milliseconds)) == 1 or bool(self.normal_ms and not self.normal_ms[1])
        )

    def nominal(self, control_hz: float) -> int:
        """Return the delay in control steps that is typical: the constant, the mean or the median."""
        if self.steps is not None:
            return self.steps
        return _to_steps(self.normal_ms[0] if self.normal_ms else median(self.milliseconds), control_hz)

    def quantile(self, q: float, control_hz: float) -> int:
        """Return the fewest control steps within which a share ``q`` or more of the draws arrive.

        Args:
            q: the share, 0 < q <= 1; 1 gives the largest delay that can be drawn.
            control_hz: control steps per second.

        Raises:
            ValueError: ``q`` is outside this range.
        """
        if not 0 < q <= 1:
            raise ValueError(f"a quantile must be greater than 0 and at most 1, got {q:g}")
        if self.steps is not None:
            return self.steps
        if self.normal_ms is not None:
            z = _MAX_DEVIATIONS if q == 1 else NormalDist().inv_cdf(q)
            return _to_steps(_cut_off(self.normal_ms, z), control_hz)
        rank = math.ceil(round(q * len(self.milliseconds), 9))
        return _to_steps(sorted(self.milliseconds)[max(rank, 1) - 1], control_hz)

    def draw(self, key: str, control_hz: float) -> int:
        """Return the delay of one inference in control steps, determined by ``key`` (episode and step) alone."""
        if self.steps is not None:
            return self.steps
        seed = int.from_bytes(hashlib.sha256(f"delay:{key}".encode()).digest()[:8], "big")
        quantile = (seed + 0.5) / 2**64
        if self.normal_ms is None:
            return _to_steps(self.milliseconds[int(quantile * len(self.milliseconds))], control_hz)
        z = NormalDist().inv_cdf(min(max(quantile, 1e-9), 1 - 1e-9))
        return _to_steps(_cut_off(self.normal_ms, z), control_hz)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON values; a trace is its list of latencies."""
        if self.steps is not None:
            return {"steps": self.steps}
        if self.normal_ms is not None:
            return {"normal_ms": list(self.normal_ms)}
        return {"milliseconds": list(self.milliseconds)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Delay:
        """Return the delay that :meth:`to_dict` wrote."""
        if "steps" in fields:
            return cls(int(fields["steps"]))
        if "normal_ms" in fields:
            mean, deviation = fields["normal_ms"]
            return cls(None, normal_ms=(float(mean), float(deviation)))
        return cls(None, tuple(float(ms) for ms in fields["milliseconds"]))

    def __str__(self) -> str:
        """Return a short text for tables and messages."""
        if self.steps is not None:
            return f"{self.steps} steps"
        if self.normal_ms is not None:
            return f"{self.normal_ms[0]:g} ± {self.normal_ms[1]:g} ms"
        if self.constant:
            return f"{self.milliseconds[0]:g} ms"
        return f"{len(self.milliseconds)} latencies, median {median(self.milliseconds):g} ms"


def _cut_off(normal_ms: tuple[float, float], z: float) -> float:
    """Return the latency in ms that lies ``z`` standard deviations from the mean, within the cut-offs."""
    mean, deviation = normal_ms
    return max(0.0, mean + deviation * max(-_MAX_DEVIATIONS, min(_MAX_DEVIATIONS, z)))


def _to_steps(milliseconds: float, control_hz: float) -> int:
    """Return the whole control steps that cover a latency: any fraction of a step counts as one step."""
    return math.ceil(round(milliseconds * control_hz / 1000, 9))


def _checked_ms(text: str) -> float:
    milliseconds = float(text)
    if milliseconds > _MAX_MS:
        raise ValueError(f"{text} ms is more than an hour")
    return milliseconds


def _read_trace(path: Path) -> tuple[float, ...]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    values = content.get("latency_ms") if isinstance(content, dict) else content
    are_latencies = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= _MAX_MS for v in values
    )
    if not are_latencies or not values:
        raise ValueError(
            f"{path}: must be a JSON list of latencies in ms, at most an hour each, or have one under latency_ms"
        )
    return tuple(float(value) for value in values)
