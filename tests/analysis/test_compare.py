"""The comparison of finished runs and its command, with real runs of the tests' suites."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from support.commands import invoke
from support.made_up import made_up, write
from support.marks import slow
from support.paths import RELAY
from support.runs import altered, kept, run

from evalkit.analysis.compare import compare
from evalkit.analysis.pairs import pair_episodes, read_side
from evalkit.analysis.summary import summarize
from evalkit.errors import NotComparable, UsageError
from evalkit.records.journal import read_journal


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, long_oracle_run: Path, noisy_run: Path) -> Path:
    """A folder with the runs ``good``, of the oracle, and ``bad``, of the oracle with noise."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(long_oracle_run, folder / "good")
    shutil.copytree(noisy_run, folder / "bad")
    return folder


def test_runs_are_compared_episode_by_episode(runs: Path) -> None:
    found = compare(runs / "good", runs / "bad")
    good, bad = (read_journal(runs / name) for name in ("good", "bad"))
    lost = {e.id for e in good if good[e].success and not bad[e].success}
    won = {e.id for e in good if bad[e].success and not good[e].success}
    assert {f.episode for f in found.flips if f.b < f.a} == lost
    assert {f.episode for f in found.flips if f.b > f.a} == won
    assert lost and found.paired and found.unmatched == 0
    head = found.headline.contrast
    assert (head.n, head.only_a, head.only_b) == (80, len(lost), len(won))
    assert head.p == pytest.approx(stats.binomtest(len(won), len(won) + len(lost)).pvalue)
    assert [head.a, head.b] == pytest.approx([summarize(runs / name).headline.value for name in ("good", "bad")])
    assert found.verdict == "REGRESSION" and "is lower" in found.reason
    near = [x for x in found.rows if x.split == "near"]
    assert [x.task for x in near] == ["left", "right", None] and all(x.contrast.p_adjusted is not None for x in near)
    video = Path(found.flips[0].videos[0])
    assert video.exists() and video.is_relative_to(runs / "bad")


def test_a_run_equals_itself(runs: Path) -> None:
    found = compare(runs / "good", runs / "good")
    assert found.flips == [] and found.headline.contrast.difference == 0 and found.headline.contrast.p == 1
    assert found.verdict == "PASS"


@pytest.mark.slow
def test_what_is_too_small_to_tell_is_inconclusive(runs: Path, tmp_path: Path) -> None:
    few = kept(runs / "good", tmp_path / "few", lambda r: r.episode.scene == 0)
    found = compare(few, runs / "good")
    assert found.verdict == "INCONCLUSIVE" and found.headline.contrast.n == 4 and found.unmatched == 76


@pytest.mark.slow
def test_runs_without_a_common_episode_are_compared_unpaired(runs: Path, tmp_path: Path) -> None:
    first = kept(runs / "good", tmp_path / "a", lambda r: r.episode.scene < 10)
    second = kept(runs / "bad", tmp_path / "b", lambda r: r.episode.scene >= 10)
    found = compare(first, second)
    assert not found.paired and found.headline.contrast.only_a is None and found.flips == []
    assert found.headline.contrast.n == 40 and found.verdict == "REGRESSION"
    assert "unpaired" in invoke("compare", str(first), str(second)).stdout
    other = kept(runs / "good", tmp_path / "c", lambda r: r.episode.task == "left")
    with pytest.raises(NotComparable, match="no task in common"):
        compare(other, kept(runs / "good", tmp_path / "d", lambda r: r.episode.task == "right"))


@pytest.mark.slow
def test_chains_are_compared_by_their_lengths(tmp_path: Path) -> None:
    both = ["here", "there"]
    a = run(tmp_path / "a", RELAY, checkpoint="oracle", episodes=6, splits=both)
    b = run(tmp_path / "b", RELAY, checkpoint="zero", episodes=6, splits=both)
    found = compare(a, b)
    assert found.headline.metric == "average length" and found.headline.to_dict()["a"] == 3
    assert found.headline.to_dict()["difference"] == -3 and found.verdict == "REGRESSION"
    assert [x.metric for x in found.rows if x.split == "here"] == [
        "1 in a row", "2 in a row", "3 in a row", "average length",
    ]  # fmt: skip
    assert found.rows[0].to_dict()["difference"] == -1.0


@pytest.mark.slow
def test_repeats_that_could_not_differ_count_once(tmp_path: Path) -> None:
    a = run(tmp_path / "a", checkpoint="oracle", episodes=3, repeats=2)
    b = run(tmp_path / "b", checkpoint="zero", episodes=3, repeats=2)
    head = compare(a, b).headline.contrast
    assert (head.n, head.n_effective, head.only_a) == (24, 12, 12)


@pytest.mark.parametrize("alike", [True, False])
def test_repeats_with_equal_digests_count_once_in_paired_tests(tmp_path: Path, alike: bool) -> None:
    for name, solved in (("a", lambda e: True), ("b", lambda e: e.scene % 2 == 0)):
        known = {"fingerprint": {"suite": "metaworld", "versions": {}}}
        made_up(tmp_path / name, "metaworld", solved, manifest=known, splits=["hard"], episodes=4, repeats=3)
    for name in ("a", "b"):  # repeats differ by digest, unless both runs are given one digest a scene
        records = read_journal(tmp_path / name).values()
        digests = [f"{r.episode.task} {r.episode.scene}" if alike else r.episode.id for r in records]
        write(tmp_path / name, [replace(r, digest=d) for r, d in zip(records, digests, strict=True)])
    found = compare(tmp_path / "a", tmp_path / "b")
    tasks = [row for row in found.rows if row.task]
    scenes = 4 if alike else 12
    assert {(row.contrast.n, row.contrast.n_effective) for row in tasks} == {(12, scenes)}
    assert {(row.contrast.only_a, row.contrast.only_b) for row in tasks} == {(scenes // 2, 0)}
    p = stats.binomtest(0, scenes // 2).pvalue
    assert [row.contrast.p for row in tasks] == pytest.approx([p] * len(tasks))
    head = found.headline.contrast
    assert (head.n, head.n_effective) == (12 * len(tasks), scenes * len(tasks))


@pytest.mark.parametrize("side", ["a", "b"])
def test_one_repeat_that_differs_on_either_side_is_an_observation_of_its_own(tmp_path: Path, side: str) -> None:
    for name in ("a", "b"):
        made_up(tmp_path / name, "metaworld", lambda e: True, splits=["hard"], tasks=["push-v3"], episodes=2, repeats=3)
    for name in ("a", "b"):
        differs = 2 if name == side else None
        records = read_journal(tmp_path / name).values()
        write(tmp_path / name, [replace(r, digest="other" if r.episode.repeat == differs else "same") for r in records])
    pairs = pair_episodes(read_side(tmp_path / "a"), read_side(tmp_path / "b"))
    assert pairs.sort_values(["scene", "repeat"])["distinct"].tolist() == [True, False, True] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fingerprint.versions.numpy": "1.0"}, "versions.numpy"),
        slow({"fingerprint.assets.digest": "x"}, "assets.digest"),
        ({"fingerprint.protocol": "x", "suite.splits.near.max_steps": 31}, "protocol.splits.near.max_steps"),
        slow({"execution.delay.steps": 2}, "execution.delay.steps"),
        slow({"execution.name": "naive"}, "execution.name"),
    ],
)
def test_what_is_not_comparable_is_refused_by_field_and_may_be_allowed(
    runs: Path, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    other = altered(runs / "bad", tmp_path / "other", change)
    refused = invoke("compare", str(runs / "good"), str(other), "--json")
    assert refused.exit_code == 2 and f"not comparable: {field} is" in refused.stderr
    assert json.loads(refused.stdout)["verdict"] == "NOT COMPARABLE"
    allowed = invoke("compare", str(runs / "good"), str(other), "--allow", field.partition(".")[0], "--json")
    assert allowed.exit_code == 0 and field in json.loads(allowed.stdout)["allowed"][0]


def test_another_suite_is_never_allowed(runs: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "relay", RELAY, checkpoint="oracle", episodes=1)
    with pytest.raises(NotComparable, match='suite is "pointmass" in one run and "relay" in the other'):
        compare(runs / "good", other, allow=["suite"])


@pytest.mark.slow
def test_the_horizon_is_a_checkpoints_own_affair(runs: Path, tmp_path: Path) -> None:
    assert compare(runs / "good", run(tmp_path / "five", checkpoint="oracle:chunk=5")).verdict == "PASS"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margin", "0"], "--margin 0: must lie between 0 and 1"),
        (["--alpha", "0.7"], "--alpha 0.7: must lie between 0 and 0.5"),
        (["--allow", "versions"], "--allow versions: it does not differ"),
    ],
)
def test_what_makes_no_sense_is_refused(runs: Path, arguments: list[str], message: str) -> None:
    result = invoke("compare", str(runs / "good"), str(runs / "bad"), *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


def test_runs_that_hold_nothing_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run"):
        compare(runs / "good", tmp_path)
    with pytest.raises(UsageError, match="no episode of this run has a verdict"):
        compare(runs / "good", kept(runs / "good", tmp_path / "empty", lambda r: False))


@pytest.mark.slow
def test_what_people_are_shown(runs: Path) -> None:
    shown = invoke("compare", str(runs / "good"), str(runs / "bad")).stdout
    for words in ("only a", "p (Holm)", "worse in b:", "REGRESSION  mean of two is lower", ".mp4"):
        assert words in shown
    assert "4 of 4 tasks are alike" in invoke("compare", str(runs / "good"), str(runs / "good")).stdout
