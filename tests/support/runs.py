"""Runs on the point mass, and copies of them that differ in something."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from evalkit.locations import suite_folder
from evalkit.records.journal import read_journal
from evalkit.records.manifest import content_digest, protocol_digest
from evalkit.runner.options import Candidate, RunOptions
from evalkit.runner.progress import Silent
from evalkit.runner.resolve import resolve_run
from evalkit.runner.run import play, run_candidate
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import Suite, load_suite
from support.paths import POINTMASS


def run(out: Path, suite: str = POINTMASS, **options: Any) -> Path:
    """Play a run; return its folder."""
    return play(RunOptions(suite, out=out, **{"workers": 1, "episodes": 20, **options}), Silent())


def altered(run: Path, out: Path, change: dict[str, Any]) -> Path:
    """A copy of a run with other values in its manifest, by dotted field, as if it had been written with them."""
    shutil.copytree(run, out)
    manifest = json.loads((out / "manifest.json").read_text())
    for field, value in change.items():
        place = manifest
        *path, last = field.split(".")
        for part in path:
            place = place[part]
        place[last] = value
    seal(out, manifest)
    return out


def seal(run: Path, manifest: dict[str, Any]) -> None:
    """Write a changed manifest so that no digest tells of the change."""
    if manifest["origin"] is None:
        manifest["fingerprint"]["protocol"] = protocol_digest(manifest["suite"])
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    (run / "manifest.json").write_text(json.dumps({**content, "sha256": content_digest(content)}))


def kept(run: Path, out: Path, keep: Any) -> Path:
    """A copy of a run with the records that ``keep`` wants."""
    shutil.copytree(run, out)
    records = [r for r in read_journal(run).values() if keep(r)]
    (out / "journal.jsonl").write_text("".join(r.to_json() + "\n" for r in records))
    return out


def run_policy(options: RunOptions, candidate: Candidate) -> Path:
    """A policy of this process through a suite."""
    return run_candidate(resolve_run(options, InstalledSuite.find(options.suite), candidate), Silent())


def shortened(name: str, max_steps: int) -> Suite:
    """A suite whose episodes end after ``max_steps``."""
    suite = load_suite(name)
    splits = {n: s.model_copy(update={"max_steps": max_steps}) for n, s in suite.splits.items()}
    return suite.model_copy(update={"splits": splits})


def shortened_folder(name: str, max_steps: int, out: Path) -> Path:
    """Copy a suite's folder, its episodes ending after ``max_steps``, for commands; return the copy."""
    shutil.copytree(suite_folder(name), out, ignore=shutil.ignore_patterns("__pycache__"))
    protocol = out / "suite.yaml"
    protocol.write_text(re.sub(r"max_steps: \d+", f"max_steps: {max_steps}", protocol.read_text()))
    return out


def changed_adapter(folder: Path, old: str, new: str) -> str:
    """A copy of the point mass, in a new folder inside ``folder``, with a change in its adapter."""
    suite = folder / "pointmass"
    shutil.copytree(POINTMASS, suite, ignore=shutil.ignore_patterns("__pycache__"))
    code = (suite / "adapter.py").read_text()
    assert old in code
    (suite / "adapter.py").write_text(code.replace(old, new))
    return str(suite)
