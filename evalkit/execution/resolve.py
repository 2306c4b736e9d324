"""Resolution of an execution from the requested options: defaults filled in, inequalities checked."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evalkit.errors import UsageError, unknown
from evalkit.execution import NAMES, Execution, Name
from evalkit.execution.delay import Delay
from evalkit.execution.strategies import PARAMETERS

_LEAST = 1e-9  # the quantile of the smallest delay that can be drawn
_BOUNDS: Mapping[str, tuple[float, float]] = {"decay": (-1.0, 100.0), "blend": (0.0, 1.0)}  # exp(100 i) would overflow


def parse_execution(text: str) -> tuple[Name, dict[str, float]]:
    """Return the name and the parameters of an execution as it is written on the command line.

    Args:
        text: ``rtc``, or ``rtc:quantile=0.95`` with parameters (:data:`PARAMETERS`), separated by commas.

    Raises:
        UsageError: there is no such execution or parameter, or a value is not a number in its range.
    """
    name, _, settings = text.partition(":")
    known_name = next((one for one in NAMES if one == name), None)
    if known_name is None:
        raise unknown("execution", name, NAMES)
    parameters: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"--execution {text}: write parameters as {name}:key=number,key=number") from None
        parameters[key] = number
    check_parameters(name, parameters)
    return known_name, parameters


def check_parameters(name: str, parameters: Mapping[str, float]) -> None:
    """Raise UsageError if an execution lacks a parameter, or its value is out of range."""
    known = PARAMETERS.get(name, {})
    for key, value in parameters.items():
        if key not in known:
            raise UsageError(f"--execution {name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
        if key == "quantile" and not 0 < value <= 1:
            raise UsageError(f"--execution {name}:quantile={value:g}: must be greater than 0 and at most 1")
        low, high = _BOUNDS.get(key, (-math.inf, math.inf))
        if not low <= value <= high:
            raise UsageError(f"--execution {name}:{key}={value:g}: must be between {low:g} and {high:g}")


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
        name: one of :data:`evalkit.execution.NAMES`, or with parameters as :func:`parse_execution` reads them.
        chunk_size: H, the policy's chunk length.
        control_hz: control steps per second, which converts milliseconds into steps.
        horizon: s; by default H for sync and hold, and for the others the value nearest to H / 2 that d allows.
        delay: d; 0 by default.
        prefix: c, for ``prefix``; by default the delay's ``quantile``, which is 1, the largest delay, by default.
        parameters: values that override those given with the name, and the execution's own (:data:`PARAMETERS`).

    Raises:
        UsageError: an option does not exist or does not apply, or an inequality, which the message names, is violated.
    """
    known_name, with_name = parse_execution(name)
    given = {**with_name, **(parameters or {})}
    check_parameters(known_name, given)
    delay = delay or Delay()
    if known_name == "sync" and delay != Delay():
        raise UsageError(f"--delay {delay}: with --execution sync the simulator waits for the policy: remove --delay")
    if prefix is not None and known_name != "prefix":
        raise UsageError(f"--prefix {prefix}: only --execution prefix commits actions")
    waits, quantile = known_name in ("sync", "hold"), given.get("quantile", 1.0)
    least, most = (delay.quantile(q, control_hz) for q in (_LEAST, 1.0))
    c = delay.quantile(quantile, control_hz) if known_name in ("prefix", "rtc") else delay.nominal(control_hz)
    if known_name == "prefix":
        if prefix is not None and "quantile" in given:
            raise UsageError(f"--prefix {prefix}: quantile={quantile:g} commits {c} actions: give one of the two")
        c = c if prefix is None else prefix
        given.pop("quantile", None)  # it has become c, which the manifest has
    default_horizon = chunk_size if waits else min(max(chunk_size // 2, c, 1), max(chunk_size - c, 1))
    s = default_horizon if horizon is None else horizon
    drawn = known_name == "rtc" and not delay.constant
    d = f"{least} to {most}" if least < most else str(most)
    values = f"H = {chunk_size}, s = {s}, d = {d if known_name in ('prefix', 'rtc') else c}"
    values += f", c = {c}" if known_name == "prefix" or drawn else ""
    if not 1 <= s <= chunk_size:
        raise UsageError(f"--horizon {s}: must have 1 <= s <= H, with s the horizon and H the chunk length ({values})")
    rules = {}
    if known_name == "prefix":
        rules["c >= d, or the committed actions end before the chunk arrives"] = c >= least
        rules["c <= s and s + c <= H, or the running chunk has no c actions left to commit"] = c <= s <= chunk_size - c
    elif not waits:
        symbol = "c" if drawn else "d"
        rules[f"{symbol} <= s, or the next inference would begin before the last has ended"] = c <= s
        rules[f"s <= H - {symbol}, or a chunk ends before the next arrives"] = s <= chunk_size - c
    for rule, holds in rules.items():
        if not holds:
            longer = rule.startswith("c >= d")
            remedy = "use a larger --prefix" if longer else _remedy(known_name, delay, horizon, prefix)
            raise UsageError(f"--execution {known_name}: must have {rule} ({values}): {remedy}")
    defaults = {key: value for key, value in PARAMETERS.get(known_name, {}).items() if value is not None}
    return Execution(known_name, s, delay, c if known_name == "prefix" else None, {**defaults, **given})


def _remedy(name: str, delay: Delay, horizon: int | None, prefix: int | None) -> str:
    """Return the ways to commit fewer actions or to have more of them."""
    ways = ["another --horizon"] if horizon is not None else []
    if prefix is not None:
        ways.append("a smaller --prefix")
    elif name in ("prefix", "rtc") and not delay.constant:
        ways.append(f"a smaller quantile of the delay (--execution {name}:quantile=Q)")
    return f"use {', '.join([*ways, 'longer chunks'])} or a shorter delay"
