"""Checkouts of upstream code: found, checked against their pinned commit, fetched, and said in the manifest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import RELAY

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.setup.sources import checkouts, describe_sources, fetch_sources, use_source
from evalkit.suite import Suite, load_suite


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *command], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A repository with two commits; the first is the one that the suite is made for."""
    folder = tmp_path / "upstream" / "engine"
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    for text in ("1", "2"):
        (folder / "engine.py").write_text(f"VERSION = {text}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", text)
    git(folder, "checkout", "-q", "HEAD~1")
    return folder


@pytest.fixture
def suite(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    return load_suite(str(folder_of(upstream, tmp_path)))


def folder_of(upstream: Path, tmp_path: Path) -> Path:
    """The relay suite, with a pinned repository."""
    folder = tmp_path / "relay"
    shutil.copytree(RELAY, folder)
    pinned = f"{{url: '{upstream}', commit: {git(upstream, 'rev-parse', 'HEAD')}, marker: engine.py}}"
    with (folder / "suite.yaml").open("a") as file:
        file.write(f"sources: {{variable: RELAY_SOURCE, repositories: {{engine: {pinned}}}}}\n")
    return folder


def test_a_suite_without_sources_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkouts(load_suite(RELAY)) == {}
    with pytest.raises(UsageError, match="takes no checkout"):
        use_source(load_suite(RELAY), Path("/tmp"))


def test_nothing_there_says_how_to_get_it(suite: Suite) -> None:
    with pytest.raises(EnvironmentProblem, match=r"engine is not here: run `evalkit setup relay`, or .*--source DIR"):
        checkouts(suite)


def test_fetched_by_commit_once(suite: Suite, upstream: Path) -> None:
    said: list[str] = []
    fetch_sources(suite, said.append)
    found = checkouts(suite)["engine"]
    assert (found.folder / "engine.py").read_text() == "VERSION = 1\n" and not found.changed
    assert describe_sources({"engine": found}) == ({"engine": git(upstream, "rev-parse", "HEAD")}, [])
    fetch_sources(suite, said.append)
    assert len(said) == 1


def test_a_failed_fetch_says_what_to_do_and_leaves_nothing(suite: Suite, upstream: Path, tmp_path: Path) -> None:
    shutil.rmtree(upstream)
    with pytest.raises(EnvironmentProblem, match=r"could not be fetched \(.*--source DIR"):
        fetch_sources(suite, lambda text: None)
    assert list((tmp_path / "home" / "sources").iterdir()) == []


@pytest.mark.parametrize("given", ["engine", ".", ".."])
def test_a_local_checkout_is_found_in_beside_and_below(suite: Suite, upstream: Path, given: str) -> None:
    use_source(suite, {"engine": upstream, ".": upstream.parent, "..": upstream.parent.parent}[given])
    assert checkouts(suite)["engine"].folder.samefile(upstream)


def test_the_variable_goes_first(suite: Suite, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_source(suite, upstream)
    monkeypatch.setenv("RELAY_SOURCE", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentProblem, match=r"engine is not in .*nowhere"):
        checkouts(suite)


def test_another_commit_is_refused_with_the_way_out(suite: Suite, upstream: Path) -> None:
    git(upstream, "checkout", "-q", "-")
    with pytest.raises(
        EnvironmentProblem, match=r"at commit \w{12}, and the suite is made for \w{12}: git -C .* checkout"
    ):
        use_source(suite, upstream)


def test_what_is_not_there_is_named(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no checkout of engine there \(engine/engine.py\): git clone"):
        use_source(suite, tmp_path / "relay")
    with pytest.raises(UsageError, match="no such folder"):
        use_source(suite, tmp_path / "none")


def test_changes_and_copies_without_git_are_not_comparable(suite: Suite, upstream: Path, tmp_path: Path) -> None:
    (upstream / "engine.py").write_text("VERSION = 1.5\n")
    use_source(suite, upstream)
    commits, doubts = describe_sources(checkouts(suite))
    assert commits["engine"].endswith("+changes") and doubts == ["engine has local changes"]
    copy = tmp_path / "copy" / "engine"
    shutil.copytree(upstream, copy, ignore=shutil.ignore_patterns(".git"))
    use_source(suite, copy)
    assert describe_sources(checkouts(suite)) == (
        {"engine": "unknown"},
        ["engine is not a git checkout: its commit is unknown"],
    )


def test_a_runs_manifest_has_the_commits(suite: Suite, upstream: Path, tmp_path: Path) -> None:
    use_source(suite, upstream)
    play(RunOptions(str(tmp_path / "relay"), checkpoint="zero", out=tmp_path / "run", workers=1), Silent())
    manifest = read_manifest(tmp_path / "run")
    assert manifest.fingerprint["sources"] == {"engine": git(upstream, "rev-parse", "HEAD")}
    assert manifest.incomparable == []
