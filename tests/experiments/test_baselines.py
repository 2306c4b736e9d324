"""Accepted baselines: what is stored, what is refused, and that a change is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import invoke
from support.runs import kept, run

from evalkit.analysis.summary import Summary, summarize
from evalkit.errors import RunExists, UsageError
from evalkit.experiments.baselines import accept, accepted_baselines, find_baseline
from evalkit.records.journal import read_journal
from evalkit.report.formats import render
from evalkit.testing import canonical


def page(summary: Summary) -> str:
    return render([summary], "md")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run") / "run", checkpoint="oracle", episodes=3)


def test_a_baseline_is_a_run_that_every_command_takes(finished: Path, tmp_path: Path) -> None:
    place = accept(finished, "the first release", page, "first", folder=tmp_path)
    assert place == tmp_path / "first"
    assert canonical(read_journal(place).values()) == canonical(read_journal(finished).values())
    assert summarize(place).rows == summarize(finished).rows
    assert (
        '"host":{}' in (place / "journal.jsonl").read_text()
        and json.loads((place / "manifest.json").read_text())["machine"] == {}
    )
    shown = (place / "README.md").read_text()
    assert "the first release" in shown and "| **near** | 100.0 |" in shown
    found = accepted_baselines(tmp_path)[0]
    assert (found.checkpoint, found.suite, found.headline["value"]) == ("oracle", "pointmass", 1.0)
    assert find_baseline("first", tmp_path) == place == find_baseline(str(place))


def test_acceptance_is_the_same_whatever_the_order_of_the_journal(finished: Path, tmp_path: Path) -> None:
    backwards = kept(finished, tmp_path / "backwards", lambda r: True)
    lines = (backwards / "journal.jsonl").read_text().splitlines()
    (backwards / "journal.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    one, other = (
        accept(finished, "x", page, "one", folder=tmp_path / "b"),
        accept(backwards, "x", page, "two", folder=tmp_path / "b"),
    )
    assert (one / "journal.jsonl").read_bytes() == (other / "journal.jsonl").read_bytes()


def test_what_is_no_baseline_is_refused(finished: Path, tmp_path: Path) -> None:
    part = kept(finished, tmp_path / "part", lambda r: r.episode.scene == 0)
    with pytest.raises(UsageError, match="8 of 12 episodes have no verdict"):
        accept(part, "x", page, folder=tmp_path / "b")
    with pytest.raises(UsageError, match="--reason"):
        accept(finished, "  ", page, folder=tmp_path / "b")
    with pytest.raises(UsageError, match="--name"):
        accept(finished, "x", page, "../up", folder=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_one_baseline_takes_anothers_place_only_when_told_to(finished: Path, tmp_path: Path) -> None:
    place = accept(finished, "first", page, folder=tmp_path)
    with pytest.raises(RunExists, match="--replace"):
        accept(finished, "second", page, folder=tmp_path)
    assert accepted_baselines(tmp_path)[0].reason == "first"
    assert accept(finished, "second", page, replaces=True, folder=tmp_path) == place
    assert [b.reason for b in accepted_baselines(tmp_path)] == ["second"] and len(list(tmp_path.iterdir())) == 1


def test_a_change_after_acceptance_is_noticed(finished: Path, tmp_path: Path) -> None:
    place = accept(finished, "x", page, "mine", folder=tmp_path)
    journal = place / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"success":true', '"success":false', 1))
    with pytest.raises(UsageError, match="changed since it was accepted"):
        find_baseline("mine", tmp_path)
    (place / "baseline.json").write_text("{}")
    with pytest.raises(UsageError, match="name: is missing"):
        accepted_baselines(tmp_path)


def test_a_baseline_that_does_not_exist_is_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which has none"):
        find_baseline("x", tmp_path)
    accept(finished, "x", page, "pointmass-may", folder=tmp_path)
    with pytest.raises(UsageError, match="did you mean pointmass-may"):
        find_baseline("pointmass-june", tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="not a run"):
        find_baseline(str(tmp_path / "folder"))


def test_the_commands(finished: Path, tmp_path: Path) -> None:
    named = ["--baselines", tmp_path]
    result = invoke("baseline", "accept", finished, "--reason", "good enough", "--name", "b", *named)
    assert result.exit_code == 0 and "review and commit it" in result.stdout
    assert "good enough" in invoke("baseline", "list", *named).stdout
    listed = json.loads(invoke("baseline", "list", *named, "--json").stdout)
    assert listed["baselines"][0]["name"] == "b"
    assert "no baseline in" in invoke("baseline", "list", "--baselines", tmp_path / "none").stdout
