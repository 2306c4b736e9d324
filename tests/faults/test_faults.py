"""A sample of every campaign of faults; `python benchmarks/faults.py` runs them in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults import damage, documents, environments, invocations, kills, servers
from support.faults.trials import Trial, hold
from support.import_logs import lerobot
from support.runs import run


@pytest.fixture(scope="session")
def worse_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the point mass with both verdicts, 16 episodes. Shared: change a copy."""
    return run(tmp_path_factory.mktemp("shared") / "worse", checkpoint="oracle-noisy:noise=1.5", episodes=None)


@pytest.fixture
def bad(tmp_path: Path, oracle_run: Path) -> Iterator[Trial]:
    """Bad invocations of commands that start no simulator."""
    lerobot(tmp_path / "eval_info.json", {("libero_object", 0): [True, False]})
    return invocations.trials(1, 80, tmp_path / "here", oracle_run, tmp_path / "eval_info.json", light=True)


@pytest.mark.slow
def test_bad_invocations_are_refused_in_one_line(bad: Iterator[Trial]) -> None:
    hold(bad)


@pytest.mark.slow
def test_hostile_suites_and_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    hold(documents.trials(1, 40, tmp_path))


@pytest.mark.slow
def test_damaged_runs_are_refused_or_count_as_before(tmp_path: Path, worse_run: Path) -> None:
    hold(damage.trials(1, 12, tmp_path, worse_run, damage.FAST))


@pytest.mark.slow
def test_a_damaged_run_is_resumed_to_its_content_or_not_at_all(tmp_path: Path, worse_run: Path) -> None:
    hold(damage.trials(2, 4, tmp_path, worse_run, ["resume"]))


@pytest.mark.slow
def test_hostile_servers_and_clients_change_nothing_and_stop_nobody() -> None:
    hold(servers.trials(1, 60))


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_behind_and_is_resumed_to_the_same_journal(tmp_path: Path) -> None:
    hold(kills.trials(1, 4, tmp_path))


@pytest.mark.slow
def test_an_environment_in_which_nothing_works_changes_no_result(tmp_path: Path, oracle_run: Path) -> None:
    hold(environments.trials(1, 5, tmp_path, oracle_run))
