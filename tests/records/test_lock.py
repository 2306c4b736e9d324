"""The lock of a run's folder: what a second process is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import RunExists, UsageError
from evalkit.records.lock import lock_run_folder


def test_a_folder_whose_manifest_is_about_to_be_written_is_at_work(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with lock_run_folder(out, resume=False) as folder:
        folder.journal.touch()
        with pytest.raises(RunExists, match="another evalkit process is at work there"), lock_run_folder(out, False):
            pass


def test_a_folder_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="exists and is not empty"), lock_run_folder(tmp_path, resume=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
