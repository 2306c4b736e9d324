"""The check that two runs may be compared, and the refusal that names the field that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.documents import differences, short
from evalkit.errors import NotComparable, UsageError
from evalkit.records.manifest import Manifest
from evalkit.suite import protocol

Difference = tuple[str, Any, Any]  # dotted field, value in the first run, value in the second


def check_comparable(first: Manifest, second: Manifest, allow: Sequence[str] = ()) -> list[str]:
    """Refuse two runs whose difference could come from something other than their checkpoints.

    Compared are the fingerprints (suite, protocol, simulator versions, assets, sources) and the execution's name and
    delay; the horizon may differ. The renderer (``gl``) must agree if both policies use cameras.

    Args:
        first: one run.
        second: the other.
        allow: fields that may differ: a field as the refusal names it, or a prefix of it (``versions``).

    Returns:
        The fields that differ and were allowed, one line each.

    Raises:
        NotComparable: a field differs that is not allowed to; the message names all of them.
        UsageError: ``allow`` names a field that does not differ, or the suite.
    """
    found = list(_differences(first, second))
    suites = first.fingerprint["suite"], second.fingerprint["suite"]
    if suites[0] != suites[1]:
        raise NotComparable(
            f"not comparable: suite is {short(suites[0])} in one run and {short(suites[1])} in the other"
        )
    for field in allow:
        if not any(_is_part_of(name, field) for name, _, _ in found):
            known = ", ".join(name for name, _, _ in found) or "nothing"
            raise UsageError(f"--allow {field}: it does not differ (differing fields: {known})")
    refused = [d for d in found if not any(_is_part_of(d[0], field) for field in allow)]
    if refused:
        field, a, b = refused[0]
        more = f" (and {', '.join(name for name, _, _ in refused[1:])})" if len(refused) > 1 else ""
        raise NotComparable(
            f"not comparable: {field} is {short(a)} in one run and {short(b)} in the other{more}; "
            f"use --allow {field} to compare them nevertheless; the output then says so"
        )
    return [f"{field}: {short(a)} and {short(b)}" for field, a, b in found]


def _differences(first: Manifest, second: Manifest) -> Iterator[Difference]:
    without_cameras = not (_renders(first) and _renders(second))
    ours, theirs = (
        {k: v for k, v in m.fingerprint.items() if not (without_cameras and k == "gl")} for m in (first, second)
    )
    if ours.get("protocol") != theirs.get("protocol"):
        inside = list(differences(protocol(first.suite), protocol(second.suite), "protocol"))
        yield from inside or [("protocol", ours.get("protocol"), theirs.get("protocol"))]
    mine, yours = ({k: v for k, v in part.items() if k != "protocol"} for part in (ours, theirs))
    if mine.get("versions") is None or yours.get("versions") is None:  # of an imported run: unknown is not equal
        first_has, second_has = (part.pop("versions", None) or "unknown" for part in (mine, yours))
        yield "versions", first_has, second_has
    yield from differences(mine, yours)
    for name in ("name", "delay"):
        yield from differences(first.execution.get(name), second.execution.get(name), f"execution.{name}")


def _renders(manifest: Manifest) -> bool:
    """Return True if the run's policy uses a camera, or if the manifest does not say."""
    return bool(manifest.checkpoint.get("observation_spec", {}).get("cameras", True))


def _is_part_of(field: str, allowed: str) -> bool:
    return field == allowed or field.startswith((f"{allowed}.", f"{allowed}["))
