"""Resolution of an execution from the requested options: defaults filled in, inequalities checked."""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.errors import UsageError, unknown
from evalkit.execution import NAMES, Execution
from evalkit.execution.delay import Delay
from evalkit.execution.strategies import PARAMETERS


def resolve_execution(
    name: str,
    chunk_size: int,
    control_hz: float,
    horizon: int | None = None,
    delay: Delay | None = None,
    prefix: int | None = None,
    parameters: Mapping[str, float] | None = None,
) -> Execution:
    """Return a valid execution, with defaults for the options that are None.

    Args:
        name: one of :data:`evalkit.execution.NAMES`.
        chunk_size: H, the policy's chunk length.
        control_hz: control steps per second, which converts milliseconds into steps.
        horizon: s; by default H for sync and hold, and for the others the value nearest to H / 2 that d allows.
        delay: d; 0 by default.
        prefix: c, for ``prefix``; d by default.
        parameters: values that override the execution's own (:data:`PARAMETERS`).

    Raises:
        UsageError: an option does not exist or does not apply, or an inequality, which the message names, is violated.
    """
    known_name = next((one for one in NAMES if one == name), None)
    if known_name is None:
        raise unknown("execution", name, NAMES)
    delay, defaults = delay or Delay(), PARAMETERS.get(name, {})
    for key in parameters or {}:
        if key not in defaults:
            raise UsageError(f"--execution {name} has no parameter {key!r}; it has {', '.join(defaults) or 'none'}")
    d = delay.nominal(control_hz)
    if name == "sync" and delay != Delay():
        raise UsageError(f"--delay {delay}: with --execution sync the simulator waits for the policy: remove --delay")
    if prefix is not None and name != "prefix":
        raise UsageError(f"--prefix {prefix}: only --execution prefix commits actions")
    waits = name in ("sync", "hold")
    c = (d if prefix is None else prefix) if name == "prefix" else d
    default_horizon = chunk_size if waits else min(max(chunk_size // 2, c, 1), max(chunk_size - c, 1))
    s = default_horizon if horizon is None else horizon
    values = f"H = {chunk_size}, s = {s}, d = {d}" + (f", c = {c}" if name == "prefix" else "")
    rules = {}
    if not 1 <= s <= chunk_size:
        raise UsageError(f"--horizon {s}: must have 1 <= s <= H, with s the horizon and H the chunk length ({values})")
    if not waits:
        rules[f"d <= s, or the next inference would begin before the last has ended ({values})"] = d <= s
        rules[f"s <= H - d, or a chunk ends before the next arrives ({values})"] = s <= chunk_size - d
    if name == "prefix":
        rules[f"c >= d, or the committed actions end before the chunk arrives ({values})"] = c >= d
        rules[f"c <= s and s + c <= H, or the running chunk has no c actions left to commit ({values})"] = (
            c <= s <= chunk_size - c
        )
    for rule, holds in rules.items():
        if not holds:
            raise UsageError(f"--execution {name}: must have {rule}")
    return Execution(known_name, s, delay, c if name == "prefix" else None, {**defaults, **(parameters or {})})
