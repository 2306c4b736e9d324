"""Accepted baselines: the runs that a gate measures against, kept as files that a reviewer can read.

A baseline is a run (manifest and journal, so every command takes it) without what says nothing of the outcome, beside a
page with its table and why it was accepted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from evalkit.analysis.summary import Summary, summarize
from evalkit.documents import parse
from evalkit.errors import RunExists, UsageError, unknown
from evalkit.records.folder import RunFolder
from evalkit.records.journal import read_journal
from evalkit.records.manifest import now, read_manifest

FOLDER = Path("results/baselines")
FILE = "baseline.json"


class Acceptance(BaseModel):
    """Why a run is a baseline.

    Attributes:
        name: the baseline's.
        reason: why it was accepted, in the words of whoever did.
        accepted: when, in UTC.
        checkpoint: the checkpoint's id.
        suite: the suite's name.
        headline: its number: name, value, low, high, n.
        journal_sha256: of the journal as it was accepted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    reason: str
    accepted: str
    checkpoint: str
    suite: str
    headline: dict[str, Any]
    journal_sha256: str


def accept(
    run: Path,
    reason: str,
    table: Callable[[Summary], str],
    name: str | None = None,
    replaces: bool = False,
    folder: Path = FOLDER,
) -> Path:
    """Makes a finished run a baseline; returns its folder.

    Args:
        run: the run's folder.
        reason: why; it is what a reviewer reads.
        table: makes the markdown table of the baseline's page.
        name: the baseline's; ``<suite>-<checkpoint>`` where None.
        replaces: whether it may take the place of one of that name.
        folder: where baselines are.

    Raises:
        UsageError: the run is unfinished or has errors, or the reason is empty.
        RunExists: there is one of that name, and it is not to be replaced.
    """
    summary = summarize(run)
    if not reason.strip():
        raise UsageError("--reason: say why this run is to be the baseline; reviewers read it")
    left = summary.planned - summary.finished
    if left:
        raise UsageError(
            f"{run}: {left} of {summary.planned} episodes have no verdict; finish it with --resume --out {run}"
        )
    name = name or _named(summary)
    if not name or name.startswith(".") or set(name) & set("/\\\n"):
        raise UsageError(f"--name {name!r}: must be the name of a folder")
    place = folder / name
    if place.exists() and not replaces:
        raise RunExists(
            f"{place}: there is a baseline of this name; --replace puts the run in its place, or name another"
        )
    draft = folder / f".{name}.{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        manifest = summary.manifest.model_copy(update={"machine": {}})
        manifest.write(draft)
        records = read_journal(run)
        order = manifest.plan.episodes(str(manifest.fingerprint["suite"]))
        lines = [replace(records[episode], host={}, timeline=None).to_json() for episode in order]
        RunFolder(draft).journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
        accepted = Acceptance(
            name=name,
            reason=reason.strip(),
            accepted=now(),
            checkpoint=str(manifest.checkpoint["id"]),
            suite=str(manifest.fingerprint["suite"]),
            headline=summary.to_json()["headline"],
            journal_sha256=_sha256(RunFolder(draft).journal),
        )
        (draft / FILE).write_text(
            json.dumps(accepted.model_dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        page = f"# {name}\n\n{accepted.reason}\n\nAccepted {accepted.accepted}.\n\n{table(summary)}\n"
        (draft / "README.md").write_text(page, encoding="utf-8")
        if place.exists():
            shutil.rmtree(place)
        draft.rename(place)
    except OSError as error:
        raise UsageError(f"{place}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def find_baseline(named: str, folder: Path = FOLDER) -> Path:
    """The folder of a baseline: a run's, or that of an accepted one by its name.

    Raises:
        UsageError: there is none, or it was changed since it was accepted.
    """
    place = next((p for p in (Path(named), folder / named) if RunFolder(p).is_run), None)
    if place is None:
        if Path(named).is_dir():
            raise UsageError(f"--baseline {named}: not a run (there is no manifest.json)")
        names = [one.name for one in accepted_baselines(folder)]
        if not names:
            raise UsageError(f"--baseline {named}: neither a run's folder nor one of {folder}, which has none")
        raise unknown("baseline", named, names)
    if (place / FILE).is_file():
        accepted = _read(place)
        if _sha256(RunFolder(place).journal) != accepted.journal_sha256:
            raise UsageError(
                f"{RunFolder(place).journal}: changed since it was accepted (its SHA-256 is not {FILE}'s journal_sha256): "
                "accept a run anew"
            )
    read_manifest(place)
    return place


def accepted_baselines(folder: Path = FOLDER) -> list[Acceptance]:
    """All that were accepted, by name. Raises UsageError that names a file that cannot be read."""
    return [_read(path.parent) for path in sorted(folder.glob(f"*/{FILE}")) if not path.parent.name.startswith(".")]


def _read(place: Path) -> Acceptance:
    try:
        content = json.loads((place / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{place / FILE}: cannot be read: {error}") from error
    return parse(Acceptance, content, place / FILE)


def _named(summary: Summary) -> str:
    made = f"{summary.manifest.fingerprint['suite']}-{summary.manifest.checkpoint['id']}"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in made)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
