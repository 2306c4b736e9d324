"""The lock of a run's folder: what a second process is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_up import planned

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


def test_a_folder_in_which_a_start_was_interrupted_can_be_used_again(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / ".manifest.json.1234").write_text("{")
    (logs / "journal.jsonl").write_text("a record of an import that was killed\n")
    (logs / "worker-0.log").touch()
    with lock_run_folder(tmp_path, resume=False) as folder:
        assert sorted(path.name for path in folder.root.iterdir()) == [".lock", "logs"]
        assert list(folder.logs.iterdir()) == []


def test_the_logs_of_a_run_that_is_resumed_stay(tmp_path: Path) -> None:
    planned(tmp_path / "run")
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "logs" / "worker-0.log").write_text("before\n")
    with lock_run_folder(tmp_path / "run", resume=True) as folder:
        assert folder.worker_log(0).read_text() == "before\n"
