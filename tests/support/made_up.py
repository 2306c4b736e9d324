"""Run folders that were never played: a suite's own plan, and outcomes as a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evalkit.episode import Episode
from evalkit.records.journal import Record
from evalkit.records.manifest import Manifest, Plan, fingerprint
from evalkit.suite import load_suite
from support.paths import POINTMASS

Outcome = Callable[[Episode], bool | int | None]


def made_up(
    folder: Path,
    suite: str,
    outcome: Outcome,
    checkpoint: str = "made-up",
    manifest: dict[str, Any] | None = None,
    **plan: Any,
) -> Path:
    """A run of ``suite``; ``outcome`` is a verdict, None for an error, or of a chain how many sub-tasks were solved."""
    loaded = load_suite(suite)
    episodes = loaded.plan(**plan)
    folder.mkdir(parents=True)
    known = {k: v for k, v in fingerprint(loaded, {}, {}).items() if k != "versions"}
    fields: dict[str, Any] = {
        "checkpoint": {"id": checkpoint},
        "execution": {"name": "sync", "horizon": 10},
        "plan": Plan.of(episodes),
        "code": {},
        "suite": loaded.to_message(),
    }
    stated = {**known, **(manifest or {}).get("fingerprint", {})}
    Manifest.model_validate({**fields, **(manifest or {}), "fingerprint": stated}).write(folder)
    write(folder, [record(episode, outcome(episode), loaded.chain) for episode in episodes])
    return folder


def planned(folder: Path, suite: str = POINTMASS, **plan: Any) -> Path:
    """A run of which no episode has been played."""
    made_up(folder, suite, lambda e: True, **plan)
    return write(folder, [])


def write(folder: Path, records: Sequence[Record]) -> Path:
    """The journal with these records; return the folder."""
    (folder / "journal.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    return folder


def record(episode: Episode, came: bool | int | None, chain: int | None = None, digest: str | None = None) -> Record:
    """The record of an episode; repeats differ, unless they are given one ``digest``."""
    if came is None:
        return Record(episode, None, error={"kind": "crash", "message": "gone"})
    subtasks: list[list[Any]] = []
    if chain:
        subtasks = [[f"subtask {place}", place < int(came)] for place in range(min(int(came) + 1, chain))]
    success = int(came) == chain if chain else bool(came)
    execution_stats = {
        "idle_steps": 0,
        "action_age_mean": 1.5,
        **({"gripper_reversals": 2} if episode.scene % 2 else {}),
    }
    made = {
        "steps": 10 + episode.scene % 20,
        "inferences": 2,
        "metrics": {"distance": 0.25},
        "execution_stats": execution_stats,
    }
    return Record(episode, success, subtasks=subtasks, digest=digest or episode.id, **made)
