"""Accepted baselines: the reference runs of gates, stored as files that a reviewer can read.

A baseline is a run without its machine-dependent data, beside a page with its table and the reason for its acceptance.
It has a manifest and a journal, so that every command accepts it.
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
from evalkit.documents import parse, read_json
from evalkit.errors import RunExists, UsageError, unknown
from evalkit.locations import as_file_name
from evalkit.records.folder import RunFolder
from evalkit.records.journal import read_journal
from evalkit.records.manifest import now, read_manifest

FOLDER = Path("results/baselines")
FILE = "baseline.json"


class Acceptance(BaseModel):
    """The record of an accepted baseline, ``baseline.json``.

    Attributes:
        name: the baseline's name.
        reason: the reason, in the words of the person who accepted it.
        accepted: time of the acceptance, in UTC.
        checkpoint: the checkpoint's id.
        suite: the suite's name.
        headline: the headline's name, value, low, high and n.
        journal_sha256: SHA-256 of the accepted journal.
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
    """Make a finished run a baseline, and return the baseline's folder.

    Args:
        run: the run's folder.
        reason: the reason, for reviewers.
        table: makes the markdown table of the baseline's page.
        name: the baseline's name; ``<suite>-<checkpoint>`` if None.
        replaces: replace the baseline of that name.
        folder: the folder of the baselines.

    Raises:
        UsageError: the run is unfinished or has errors, or the reason is empty.
        RunExists: a baseline of that name exists, and ``replaces`` is False.
    """
    summary = summarize(run)
    _check_acceptable(summary, reason)
    name = name or _default_name(summary)
    target = folder / name
    _check_target(target, name, replaces)
    draft = folder / f".{name}.{os.getpid()}"
    try:
        _write(draft, name, reason.strip(), summary, table(summary))
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _check_acceptable(summary: Summary, reason: str) -> None:
    if not reason.strip():
        raise UsageError("--reason: give the reason for this baseline; reviewers read it")
    left = summary.planned - summary.finished
    if left:
        raise UsageError(
            f"{summary.folder}: {left} of {summary.planned} episodes have no verdict; finish it with "
            f"--resume --out {summary.folder}"
        )


def _check_target(target: Path, name: str, replaces: bool) -> None:
    if not name or name.startswith(".") or set(name) & set("/\\\n"):
        raise UsageError(f"--name {name!r}: must be the name of a folder")
    if target.exists() and not replaces:
        raise RunExists(f"{target}: a baseline of this name exists; replace it with --replace, or choose another name")


def _write(folder: Path, name: str, reason: str, summary: Summary, table: str) -> None:
    """Write a baseline's manifest, journal, record and page into a new folder."""
    folder.mkdir(parents=True)
    manifest = summary.manifest.model_copy(update={"machine": {}})
    manifest.write(folder)
    suite, journal = str(manifest.fingerprint["suite"]), RunFolder(folder).journal
    records = read_journal(summary.folder, manifest)
    lines = [replace(records[e], host={}, timeline=None).to_json() for e in manifest.plan.episodes(suite)]
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    acceptance = Acceptance(
        name=name,
        reason=reason,
        accepted=now(),
        checkpoint=str(manifest.checkpoint["id"]),
        suite=suite,
        headline=summary.to_json()["headline"],
        journal_sha256=_sha256(journal),
    )
    document = json.dumps(acceptance.model_dump(), indent=1, ensure_ascii=False)
    (folder / FILE).write_text(document + "\n", encoding="utf-8")
    page = f"# {name}\n\n{reason}\n\nAccepted {acceptance.accepted}.\n\n{table}\n"
    (folder / "README.md").write_text(page, encoding="utf-8")


def find_baseline(baseline: str, folder: Path = FOLDER) -> Path:
    """Return the folder of a baseline, given a run's folder or the name of an accepted baseline.

    Raises:
        UsageError: the baseline does not exist, or changed after its acceptance.
    """
    place = next((p for p in (Path(baseline), folder / baseline) if RunFolder(p).is_run), None)
    if place is None:
        if Path(baseline).is_dir():
            raise UsageError(f"--baseline {baseline}: not a run (there is no manifest.json)")
        names = [acceptance.name for acceptance in accepted_baselines(folder)]
        if not names:
            raise UsageError(f"--baseline {baseline}: neither a run's folder nor one of {folder}, which has none")
        raise unknown("baseline", baseline, names)
    journal = RunFolder(place).journal
    if (place / FILE).is_file() and _read(place).journal_sha256 != _sha256(journal):
        raise UsageError(
            f"{journal}: changed since it was accepted (its SHA-256 is not {FILE}'s journal_sha256): accept a run again"
        )
    read_manifest(place)
    return place


def accepted_baselines(folder: Path = FOLDER) -> list[Acceptance]:
    """Return all accepted baselines, by name. Raises UsageError that names an unreadable file."""
    return [_read(path.parent) for path in sorted(folder.glob(f"*/{FILE}")) if not path.parent.name.startswith(".")]


def _read(place: Path) -> Acceptance:
    return parse(Acceptance, read_json(place / FILE), place / FILE)


def _default_name(summary: Summary) -> str:
    return as_file_name(f"{summary.manifest.fingerprint['suite']}-{summary.manifest.checkpoint['id']}")


def _sha256(path: Path) -> str:
    summary = hashlib.sha256()
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: cannot be read: it is not a file")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                summary.update(block)
        return summary.hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
