"""From what was asked of an execution to one that can work: defaults filled in, inequalities checked."""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.errors import UsageError, unknown
from evalkit.execution import NAMES, Execution
from evalkit.execution.delay import Delay
from evalkit.execution.strategies import PARAMETERS


def resolve_execution(
    name: str,
    chunk: int,
    control_hz: float,
    horizon: int | None = None,
    delay: Delay | None = None,
    prefix: int | None = None,
    parameters: Mapping[str, float] | None = None,
) -> Execution:
    """An execution that can work, what was not asked for filled in.

    Args:
        name: one of :data:`evalkit.execution.NAMES`.
        chunk: H, the policy's chunk length.
        control_hz: control steps per second, which turns milliseconds into steps.
        horizon: s; where None, H for sync and hold, H / 2 for the others, as near to it as d allows.
        delay: d; none where None.
        prefix: c, for ``prefix``; d where None.
        parameters: over the execution's own (:data:`PARAMETERS`).

    Raises:
        UsageError: names the inequality that does not hold.
    """
    known = next((one for one in NAMES if one == name), None)
    if known is None:
        raise unknown("execution", name, NAMES)
    delay, own = delay or Delay(), PARAMETERS.get(name, {})
    for key in parameters or {}:
        if key not in own:
            raise UsageError(f"--execution {name} has no parameter {key!r}; it has {', '.join(own) or 'none'}")
    d = delay.typical(control_hz)
    if name == "sync" and delay != Delay():
        raise UsageError(f"--delay {delay}: with --execution sync the world waits for the policy, so there is none")
    if prefix is not None and name != "prefix":
        raise UsageError(f"--prefix {prefix}: only --execution prefix commits actions")
    waits = name in ("sync", "hold")
    c = (d if prefix is None else prefix) if name == "prefix" else d
    usual = chunk if waits else min(max(chunk // 2, c, 1), max(chunk - c, 1))
    s = usual if horizon is None else horizon
    given = f"H = {chunk}, s = {s}, d = {d}" + (f", c = {c}" if name == "prefix" else "")
    rules = {}
    if not 1 <= s <= chunk:
        raise UsageError(f"--horizon {s}: must have 1 <= s <= H, with s the horizon and H the chunk length ({given})")
    if not waits:
        rules[f"d <= s, or the next inference would begin before the last has ended ({given})"] = d <= s
        rules[f"s <= H - d, or a chunk ends before the next arrives ({given})"] = s <= chunk - d
    if name == "prefix":
        rules[f"c >= d, or the committed actions end before the chunk arrives ({given})"] = c >= d
        rules[f"c <= s and s + c <= H, or the running chunk has no c actions left to commit ({given})"] = (
            c <= s <= chunk - c
        )
    for rule, holds in rules.items():
        if not holds:
            raise UsageError(f"--execution {name}: must have {rule}")
    return Execution(known, s, delay, c if name == "prefix" else None, {**own, **(parameters or {})})
