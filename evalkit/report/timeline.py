"""The timeline of one episode as text: every inference, its arrival, and the steps that it drove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.errors import UsageError
from evalkit.records.journal import Record

_WIDTH = 100  # steps per line of the strip
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def timeline_of(record: Record, execution: Mapping[str, Any], chains: bool) -> Mapping[str, Any]:
    """Return the record's timeline; that of a synchronous episode follows from its horizon.

    Raises:
        UsageError: the episode ended in an error, was imported, or is a synchronous chain, whose record has no
            inference requests.
    """
    if record.error is not None:
        raise UsageError(f"{record.episode.id}: it ended in an error and has no timeline")
    if record.timeline is not None:
        return record.timeline
    if record.steps is None or execution["horizon"] is None:
        raise UsageError(f"{record.episode.id}: was imported, and the execution of its chunks is unknown")
    if chains:
        raise UsageError(f"{record.episode.id}: a synchronous run of chains does not record its inference requests")
    starts = range(0, record.steps, int(execution["horizon"]))
    lengths = [min(int(execution["horizon"]), record.steps - start) for start in starts]
    return {
        "requests": [[start, start] for start in starts],
        "segments": [[a, n] for a, n in zip(starts, lengths, strict=True)],
    }


def as_text(timeline: Mapping[str, Any], steps: int) -> str:
    """Return a strip with a letter for each step's chunk (a dot for an idle step), then a line per inference."""
    rank = {source: index for index, (source, _) in enumerate(timeline["requests"])}
    strip = ""
    for source, length in timeline["segments"]:
        strip += ("." if source is None else _LETTERS[rank[source] % len(_LETTERS)]) * length
    lines = []
    for begin in range(0, steps, _WIDTH):
        lines.append(f"step {begin:>4}  {strip[begin : begin + _WIDTH]}")
    lines += ["", f"{'':<6}{'source':>6} {'arrived':>8}  drove"]
    for index, (source, arrived) in enumerate(timeline["requests"]):
        when = "never" if arrived is None else str(arrived)
        lines.append(
            f"{_LETTERS[index % len(_LETTERS)]:>3} #{index:<3}{source:>5} {when:>8}  {_driven(timeline, source)}"
        )
    idle = sum(length for source, length in timeline["segments"] if source is None)
    return "\n".join([*lines, "", f"{steps} steps, {len(rank)} inferences, idle for {idle} steps"])


def _driven(timeline: Mapping[str, Any], wanted: int) -> str:
    begins, ranges = 0, []
    for source, length in timeline["segments"]:
        if source == wanted:
            ranges.append(f"{begins}–{begins + length - 1}" if length > 1 else str(begins))
        begins += length
    return ", ".join(ranges) or "nothing"
