"""Whole runs on the point mass: real worker processes, real journals, and the design's invariants."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.marks import slow
from support.paths import POINTMASS
from support.processes import kill_and_resume
from support.runs import changed_adapter, seal

from evalkit.analysis.summary import summarize
from evalkit.documents import Section
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem, RunExists, RunMismatch, UsageError
from evalkit.observation import ObservationSpec
from evalkit.policies.checkpoint import Checkpoint, Entry
from evalkit.policy import Request, Spec
from evalkit.records.journal import Record, read_journal
from evalkit.records.manifest import read_manifest
from evalkit.report.tables import notes
from evalkit.runner.progress import Silent
from evalkit.runner.resolve import default_folder
from evalkit.runner.run import RunOptions
from evalkit.runner.run import play as play_run
from evalkit.suite import Suite, load_suite
from evalkit.testing import canonical


def play(suite: str | Suite, out: Path, **options: Any) -> list[dict[str, Any]]:
    play_run(RunOptions(suite, out=out, **{"workers": 1, **options}), Silent())
    return canonical(read_journal(out).values())


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle on one scene of each task. Shared: change a copy."""
    return play_run(
        RunOptions(POINTMASS, out=tmp_path_factory.mktemp("small") / "run", episodes=1, workers=1), Silent()
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Invariant 1: same episode, same outcome.


@pytest.mark.parametrize("checkpoint", [slow("oracle"), "oracle-noisy", slow("random")])
def test_workers_and_order_change_no_outcome(pointmass: str, tmp_path: Path, checkpoint: str) -> None:
    one = play(pointmass, tmp_path / "1", checkpoint=checkpoint)
    three = play(pointmass, tmp_path / "3", checkpoint=checkpoint, workers=3)
    shuffled = play(pointmass, tmp_path / "s", checkpoint=checkpoint, workers=2, shuffle=5)
    assert one == three == shuffled and len(one) == 16
    tasks = [r.episode.task for r in read_journal(tmp_path / "s").values()]
    assert sum(a != b for a, b in itertools.pairwise(tasks)) > 8, "the shuffled run was not shuffled"


def test_looking_changes_no_outcome(pointmass: str, tmp_path: Path) -> None:
    blind = play(pointmass, tmp_path / "blind", checkpoint="random")
    seeing = play(pointmass, tmp_path / "seeing", checkpoint="random:cameras=all")
    assert blind == seeing


@pytest.mark.slow
def test_a_run_killed_at_random_moments_resumes_to_the_same_journal(pointmass: str, tmp_path: Path) -> None:
    whole = play(pointmass, tmp_path / "whole", checkpoint="oracle-noisy", episodes=10)
    arguments = [pointmass, "--checkpoint", "oracle-noisy", "--episodes", "10", "--workers", "2"]
    kill_and_resume(arguments, tmp_path / "killed", len(whole), seed=11, POINTMASS_DELAY="0.004")
    assert canonical(read_journal(tmp_path / "killed").values()) == whole


# Invariants 2 and 3 are in test_worker.py and in the conformance tests.

# Invariant 4: a crash is not a failure.


def test_a_worker_that_dies_is_replaced_and_its_episode_is_an_error(pointmass: str, tmp_path: Path) -> None:
    play(pointmass, tmp_path, checkpoint="zero", tasks=["dies"], episodes=3)
    records = {r.episode.scene: r for r in read_journal(tmp_path).values()}
    assert records[1].success is None and records[1].error is not None
    assert records[1].error["message"] == "the worker ended (killed by SIGABRT)" and records[1].host["attempts"] == 2
    assert records[0].success is False and records[2].success is False
    summary = summarize(tmp_path)
    assert (summary.headline.n, summary.errors, summary.complete) == (2, 1, False)


def test_a_crash_that_does_not_repeat_leaves_no_trace(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTMASS_MARK", str(tmp_path / "mark"))
    crashed = play(pointmass, tmp_path / "a", checkpoint="random", tasks=["dies-once"], episodes=3)
    again = play(pointmass, tmp_path / "b", checkpoint="random", tasks=["dies-once"], episodes=3)
    assert crashed == again and all(r["success"] is not None for r in crashed)
    assert [r.host["attempts"] for r in read_journal(tmp_path / "a").values()] == [1, 2, 1]


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(pointmass: str, tmp_path: Path) -> None:
    play(pointmass, tmp_path, checkpoint="zero", tasks=["hangs"], episodes=3, worker_timeout_s=1.5, workers=2)
    records = {r.episode.scene: r for r in read_journal(tmp_path).values()}
    assert records[1].error is not None and records[1].error["kind"] == "hang"
    assert "sent nothing for 1.5 s" in records[1].error["message"] and records[0].success is False


@pytest.mark.slow
def test_a_simulator_that_always_dies_ends_the_run(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTMASS_FATAL", "1")
    with pytest.raises(EvalkitError, match=r"10 episodes in a row ended in errors; the last: .*SIGABRT"):
        play(pointmass, tmp_path, workers=2)
    assert all(r.error is not None for r in read_journal(tmp_path).values())
    monkeypatch.delenv("POINTMASS_FATAL")
    assert all(r["success"] for r in play(pointmass, tmp_path, resume=True))


def test_a_simulators_own_error_is_an_error_with_its_message(pointmass: str, tmp_path: Path) -> None:
    play(pointmass, tmp_path, checkpoint="zero", tasks=["raises"], episodes=2)
    assert read_journal(tmp_path)[list(read_journal(tmp_path))[-1]].error == {
        "kind": "simulator",
        "message": "this scene is cursed",
    }


@pytest.mark.slow
def test_resuming_tries_errors_again_and_keeps_the_rest(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "no" / "such" / "folder" / "mark"
    monkeypatch.setenv("POINTMASS_MARK", str(mark))
    out = tmp_path / "run"
    play(pointmass, out, checkpoint="zero", tasks=["dies-once"], episodes=3)
    before = read_journal(out)
    assert sum(r.error is not None for r in before.values()) == 1
    mark.parent.mkdir(parents=True)
    mark.touch()
    play(pointmass, out, checkpoint="zero", tasks=["dies-once"], episodes=3, resume=True)
    after = read_journal(out)
    assert all(r.error is None for r in after.values())
    assert all(after[e] == r for e, r in before.items() if r.error is None)


# Invariant 7: a missing part is an error before the first episode, and a refusal touches nothing.


def test_what_the_probe_misses_is_said_and_no_folder_is_left(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTMASS_MISSING", "bolt.obj")
    with pytest.raises(EnvironmentProblem, match=r"bolt\.obj is missing; put it there"):
        play(pointmass, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_environment_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    with pytest.raises(EnvironmentProblem, match="run `evalkit setup metaworld`"):
        play("metaworld", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_cannot_be_loaded_is_explained(pointmass: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    for name in ("suite.yaml", "tasks.yaml"):
        (suite / name).write_text((Path(pointmass) / name).read_text())
    (suite / "adapter.py").write_text("import no_such_simulator\n")
    with pytest.raises(EnvironmentProblem, match="No module named 'no_such_simulator'"):
        play(str(suite), tmp_path / "run")


def test_a_remark_on_comparability_goes_into_the_manifest(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTMASS_INCOMPARABLE", "2 files are stand-ins")
    play(pointmass, tmp_path, episodes=1)
    assert read_manifest(tmp_path).incomparable == ["2 files are stand-ins"]
    assert summarize(tmp_path).to_json()["incomparable"] == ["2 files are stand-ins"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resume": False}, RunExists, "holds a run already; continue it with --resume"),
        ({"resume": True, "checkpoint": "random"}, RunMismatch, r"checkpoint\.id was \"oracle\" .* is \"random\" now"),
        (
            {"resume": True, "checkpoint": "oracle:chunk=5"},
            RunMismatch,
            r"checkpoint\.parameters\.chunk was 10 in that run and is 5 now",
        ),
        ({"resume": True, "horizon": 3}, RunMismatch, r"execution\.horizon was 10 in that run and is 3 now"),
        ({"resume": True, "episodes": 2}, RunMismatch, r"plan\.tasks\[0\]\.scenes was 1 in that run and is 2 now"),
        ({"resume": True, "splits": ["far"]}, RunMismatch, r"plan\.tasks"),
        ({"suite": "no-such-suite"}, UsageError, "unknown suite"),
        ({"checkpoint": "no-such"}, UsageError, "unknown checkpoint"),
        ({"horizon": 11, "resume": True}, UsageError, r"must have 1 <= s <= H, .*H = 10, s = 11"),
        ({"execution": "psychic", "resume": True}, UsageError, "unknown execution 'psychic': did you mean sync"),
    ],
)
def test_a_refused_second_run_touches_nothing_of_the_first(
    small_run: Path, pointmass: str, tmp_path: Path, options: dict[str, Any], error: type[EvalkitError], message: str
) -> None:
    first = RunOptions(pointmass, out=shutil.copytree(small_run, tmp_path / "run"), episodes=1, workers=1)
    before = contents(tmp_path / "run")
    with pytest.raises(error, match=message):
        play_run(replace(first, **options), Silent())
    assert contents(tmp_path / "run") == before


class Meddler(Silent):
    """A display that changes the journal when it is shown the third record."""

    def __init__(self, journal: Path, change: Callable[[Path], object]) -> None:
        self.journal, self.change, self.shown = journal, change, 0

    def record(self, record: Record) -> None:
        self.shown += 1
        if self.shown == 3:
            self.change(self.journal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"journal\.jsonl: is gone while the run writes to it"),
        (lambda path: path.write_bytes(b""), r"journal\.jsonl: was changed while the run writes to it: it is 0 bytes"),
    ],
)
def test_a_journal_that_vanishes_under_a_run_ends_it(
    pointmass: str, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    progress = Meddler(tmp_path / "run" / "journal.jsonl", change)
    with pytest.raises(EvalkitError, match=message):
        play_run(RunOptions(pointmass, out=tmp_path / "run", workers=1), progress)
    assert progress.shown == 3, "the run went on"


def test_a_journal_that_changes_after_the_last_record_is_noticed(pointmass: str, tmp_path: Path) -> None:
    progress = Meddler(tmp_path / "run" / "journal.jsonl", lambda path: path.unlink())
    with pytest.raises(EvalkitError, match=r"journal\.jsonl: is gone"):
        play_run(RunOptions(pointmass, out=tmp_path / "run", workers=1, tasks=["left"], episodes=3), progress)


@pytest.mark.parametrize("kind", ["CRLF", "UTF-16", "BOM"])
def test_resume_refuses_what_it_cannot_read_and_leaves_it(
    small_run: Path, pointmass: str, tmp_path: Path, kind: str
) -> None:
    out = shutil.copytree(small_run, tmp_path / "run")
    text = (out / "journal.jsonl").read_text()
    forms = {
        "CRLF": text.replace("\n", "\r\n").encode(),
        "UTF-16": text.encode("utf-16"),
        "BOM": text.encode("utf-8-sig"),
    }
    (out / "journal.jsonl").write_bytes(forms[kind])
    before = contents(out)
    with pytest.raises(UsageError, match=r"journal\.jsonl: line 1 is not an episode record"):
        play(pointmass, out, episodes=1, resume=True)
    after = contents(out)
    assert {name: after[name] for name in before if "logs" not in name} == {
        n: b for n, b in before.items() if "logs" not in n
    }
    assert set(after) == set(before)


def test_a_manifest_of_another_suite_or_of_nothing_is_refused(small_run: Path, pointmass: str, tmp_path: Path) -> None:
    out = shutil.copytree(small_run, tmp_path / "run")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["fingerprint"]["suite"] = "elsewhere"
    seal(out, manifest)
    with pytest.raises(RunMismatch, match=r'fingerprint\.suite was "elsewhere"'):
        play(pointmass, out, episodes=1, resume=True)
    (out / "manifest.json").write_text("{broken")
    with pytest.raises(UsageError, match=r"manifest\.json: cannot be read"):
        play(pointmass, out, episodes=1, resume=True)
    with pytest.raises(UsageError, match="holds no run; leave --resume out"):
        play(pointmass, tmp_path / "other", resume=True)
    with pytest.raises(UsageError, match="--resume needs --out"):
        play_run(RunOptions(pointmass, resume=True), Silent())


def test_a_changed_protocol_is_named_and_a_changed_explanation_is_not_one(pointmass: str, tmp_path: Path) -> None:
    suite = tmp_path / "pointmass"
    shutil.copytree(pointmass, suite, ignore=shutil.ignore_patterns("__pycache__"))
    play(str(suite), tmp_path / "run", episodes=1)
    before = read_manifest(tmp_path / "run").fingerprint
    text = (suite / "suite.yaml").read_text()
    (suite / "suite.yaml").write_text(text.replace("title: Point mass", "title: A point"))
    play(str(suite), tmp_path / "retitled", episodes=1)
    assert read_manifest(tmp_path / "retitled").fingerprint == before
    (suite / "suite.yaml").write_text(text.replace("max_steps: 60", "max_steps: 61"))
    with pytest.raises(RunMismatch, match=r"suite\.splits\.far\.max_steps was 60 in that run and is 61 now"):
        play(str(suite), tmp_path / "run", episodes=1, resume=True)


def test_a_folder_with_something_else_in_it_is_left_alone(pointmass: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not empty"):
        play(pointmass, tmp_path)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/evalkit")):
        with pytest.raises(UsageError, match="--out"):
            play(pointmass, out)
    assert contents(tmp_path) == {"thesis.tex": b"years of work", "file": b""}


@pytest.mark.slow
def test_two_runs_at_once_into_one_folder_are_one_run(pointmass: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evalkit", "run", pointmass, "--workers", "1", "--out", str(tmp_path / "run")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    refused = errors[0] if both[0].returncode else errors[1]
    assert "another evalkit process is at work there" in refused or "holds a run already" in refused
    assert len(read_journal(tmp_path / "run")) == 16


def test_an_oracle_for_a_split_without_one_is_refused_before_anything_starts(pointmass: str, tmp_path: Path) -> None:
    suite = load_suite(pointmass).model_copy(update={"oracle": ["near"]})
    with pytest.raises(UsageError, match=r"needs a scripted oracle, and pointmass has none for far \(only near"):
        play(suite, tmp_path / "run", splits=["near", "far"])
    records = play(suite, tmp_path / "run")
    assert {r["episode"]["split"] for r in records} == {"near"}, "by default it runs the splits of the oracle"


# Policies that misbehave.


class Parameters(Section):
    """None."""


class Misbehaving:
    """Returns whatever it was told to, or raises it."""

    answer: Any = None
    seen: list[Sequence[Request]]

    def __init__(self, suite: Suite, parameters: Parameters) -> None:
        self.spec = Spec(ObservationSpec(), chunk_size=10, metadata={})
        self.closed = False
        type(self).seen = []

    def act(self, requests: Sequence[Request]) -> Any:
        type(self).seen.append(requests)
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for _ in requests]

    def close(self) -> None:
        self.closed = True


good = np.zeros((10, 2), np.float32)


@pytest.fixture(scope="module")
def behaved(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of a run of the same policy when it does as it should."""
    with pytest.MonkeyPatch.context() as patch:
        choose_misbehaving(patch, good)
        return play(POINTMASS, tmp_path_factory.mktemp("behaved") / "run", episodes=1)


def choose_misbehaving(patch: pytest.MonkeyPatch, answer: Any) -> None:
    """Make it the checkpoint of every run from here on, with this answer to all requests."""
    entry = Entry(summary="", policy=f"{__name__}:Misbehaving")
    patch.setattr("evalkit.runner.run.find_checkpoint", lambda *asked: Checkpoint("odd", entry))
    patch.setattr(Misbehaving, "answer", answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            np.zeros((10, 3), np.float32),
            r"float32 \(10, 3\) at pointmass/near/left/0/s3/r0 step 0, not a float",
        ),
        slow(np.zeros((9, 2), np.float32), r"not a float \(10, 2\) chunk"),
        slow(np.zeros((10, 2), object), "not a float"),
        slow([[0.0, 0.0]] * 10, "returned list"),
        (None, "returned NoneType"),
        (np.where(np.arange(20).reshape(10, 2) == 7, np.nan, 0), r"returned nan at .* chunk index \(3, 1\)"),
        slow(np.full((10, 2), np.inf), "returned inf"),
        (RuntimeError("CUDA out of memory"), "the policy failed at .*: RuntimeError: CUDA out of memory"),
        (RuntimeError("\x1b[2J" + "\n" * 9000), r"the policy failed at \S+ step 0: RuntimeError: \[2J"),
    ],
)
def test_a_policy_that_misbehaves_ends_the_run_with_one_line_and_loses_nothing(
    behaved: list[dict[str, Any]],
    pointmass: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    message: str,
) -> None:
    choose_misbehaving(monkeypatch, answer)
    with pytest.raises(PolicyProblem, match=message):
        play(pointmass, tmp_path / "bad", episodes=1)
    assert read_journal(tmp_path / "bad") == {}
    monkeypatch.setattr(Misbehaving, "answer", good)
    assert play(pointmass, tmp_path / "bad", episodes=1, resume=True) == behaved


@pytest.mark.slow
def test_requests_of_several_workers_share_a_batch(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_misbehaving(monkeypatch, good)
    slow = Misbehaving.act
    monkeypatch.setattr(Misbehaving, "act", lambda self, requests: (time.sleep(0.02), slow(self, requests))[1])
    play(pointmass, tmp_path, workers=3)
    assert max(len(batch) for batch in Misbehaving.seen) >= 2


def test_a_metric_of_the_suite_cannot_change_the_verdict(pointmass: str, tmp_path: Path) -> None:
    suite = changed_adapter(tmp_path, '{"distance": distance}', '{"success": 1.0, "error": 1.0, "task": 2.0}')
    play(suite, tmp_path / "run", checkpoint="zero")
    headline = summarize(tmp_path / "run").headline
    assert (headline.value, headline.n, headline.errors) == (0.0, 16, 0)


def test_a_metric_that_is_no_number_is_an_error(pointmass: str, tmp_path: Path) -> None:
    suite = changed_adapter(tmp_path, '{"distance": distance}', '{"distance": float("nan")}')
    play(suite, tmp_path / "run", checkpoint="zero", episodes=1, tasks=["left"])
    (record,) = read_journal(tmp_path / "run").values()
    assert record.error is not None and "not a finite number" in record.error["message"]


def test_a_simulators_text_is_recorded_short_and_without_controls(pointmass: str, tmp_path: Path) -> None:
    suite = changed_adapter(tmp_path, '"this scene is cursed"', '"cursed \\x1b[31m\\n" + "x" * 100_000')
    play(suite, tmp_path / "run", checkpoint="zero", episodes=2, splits=["cursed"], tasks=["raises"])
    (record,) = (r for r in read_journal(tmp_path / "run").values() if r.error)
    assert record.error is not None and record.error["message"].startswith("cursed [31m xxx")
    assert len(record.error["message"]) == 300 and len(record.host["last_log_line"]) <= 200


@pytest.mark.slow
def test_one_broken_task_does_not_keep_the_others_from_being_played(pointmass: str, tmp_path: Path) -> None:
    suite = changed_adapter(tmp_path, "self._episode.scene == 1 and self._steps == 3", "self._steps == 3")
    play(suite, tmp_path / "run", checkpoint="zero", tasks=["raises", "left"], episodes=12)
    records = read_journal(tmp_path / "run").values()
    assert sum(r.error is not None for r in records) == 12 and sum(r.success is False for r in records) == 12
    assert {r.error["message"] for r in records if r.error} == {"this scene is cursed"}
    assert "SimulatorError: this scene is cursed" in (tmp_path / "run" / "logs" / "worker-0.log").read_text()


def test_a_worker_that_dies_while_it_starts_is_replaced_a_few_times(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = changed_adapter(tmp_path, "def build(", STARTS_BADLY + "\n\ndef build(")
    monkeypatch.setenv("POINTMASS_MARK", str(tmp_path / "mark"))
    assert len(play(suite, tmp_path / "run", workers=2)) == 16
    assert (tmp_path / "mark").exists()


STARTS_BADLY = """
# The second of two processes that start dies, once.
mark = Path(os.environ["POINTMASS_MARK"])
if mark.exists() and not mark.with_suffix(".2").exists():
    mark.with_suffix(".2").touch()
    os.abort()
mark.touch()
"""


# Videos.


@pytest.mark.slow
def test_a_video_that_was_lost_is_made_when_the_run_is_resumed(pointmass: str, tmp_path: Path) -> None:
    before = play(pointmass, tmp_path, checkpoint="oracle", video="all", splits=["near"])
    videos = sorted(tmp_path.rglob("*.mp4"))
    journal = (tmp_path / "journal.jsonl").read_bytes()
    videos[3].rename(videos[3].with_suffix(".part"))
    after = play(pointmass, tmp_path, checkpoint="oracle", video="all", splits=["near"], resume=True)
    assert sorted(tmp_path.rglob("*.mp4")) == videos and not list(tmp_path.rglob("*.part"))
    assert after == before and (tmp_path / "journal.jsonl").read_bytes() == journal


@pytest.mark.slow
def test_a_worker_that_dies_while_filming_loses_the_video_and_nothing_else(pointmass: str, tmp_path: Path) -> None:
    suite = changed_adapter(
        tmp_path, "        image = np.zeros((24", "        os.abort()\n        image = np.zeros((24"
    )
    play(suite, tmp_path / "run", checkpoint="oracle", video="all", splits=["near"], episodes=2)
    assert all(r.success for r in read_journal(tmp_path / "run").values())
    assert not list((tmp_path / "run").rglob("*.mp4")) and not list((tmp_path / "run").rglob("*.part"))


@pytest.fixture(scope="module")
def without_video(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of a run, some of whose episodes fail."""
    return play(POINTMASS, tmp_path_factory.mktemp("plain") / "run", checkpoint="oracle-noisy:noise=0.9")


@pytest.mark.parametrize(("video", "expected"), [slow("none", 0), ("failures", "failed"), slow("all", 16)])
def test_videos_show_what_was_asked_for_and_change_no_outcome(
    without_video: list[dict[str, Any]], pointmass: str, tmp_path: Path, video: str, expected: Any
) -> None:
    filmed = play(pointmass, tmp_path / "filmed", checkpoint="oracle-noisy:noise=0.9", video=video, workers=2)
    failed = sum(not r["success"] for r in filmed)
    assert without_video == filmed and 0 < failed < 16
    videos = sorted((tmp_path / "filmed").rglob("*.mp4"))
    assert len(videos) == (failed if expected == "failed" else expected)
    assert video != "failures" or all(v.stem.endswith("failure") for v in videos)
    for path in videos[:2]:
        assert frames(path) == (24, 32, 3)


def frames(path: Path) -> tuple[int, ...]:
    import av

    with av.open(str(path)) as container:
        shapes = {frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)}
    assert len(shapes) == 1
    return shapes.pop()


# Summaries.


def test_a_part_of_the_protocol_is_not_called_by_the_headlines_name(
    oracle_run: Path, small_run: Path, pointmass: str, tmp_path: Path
) -> None:
    play(pointmass, tmp_path / "split", splits=["near"])
    whole, split, fewer = (summarize(run) for run in (oracle_run, tmp_path / "split", small_run))
    assert (whole.headline.metric, whole.complete) == ("mean of two", True)
    assert (split.headline.metric, split.complete) == ("success rate of near", False)
    assert (fewer.headline.metric, fewer.complete) == ("mean of two", False)
    assert whole.coverage_note == "" and fewer.coverage_note == "4 of 4 tasks, 4 episodes where the protocol has 16"
    assert any("covers only part of the protocol" in note for note in notes(fewer))


def test_repeats_of_a_deterministic_policy_are_not_replicates(pointmass: str, tmp_path: Path) -> None:
    play(pointmass, tmp_path / "same", checkpoint="zero", splits=["near"], repeats=3)
    play(pointmass, tmp_path / "sampled", checkpoint="random", splits=["near"], repeats=3)
    same, sampled = summarize(tmp_path / "same").headline, summarize(tmp_path / "sampled").headline
    assert (same.n, same.n_effective) == (24, 8) and (sampled.n, sampled.n_effective) == (24, 24)


def test_the_journal_says_who_ran_what_apart_from_the_outcome(small_run: Path) -> None:
    record: Record = next(r for r in read_journal(small_run).values() if r.episode.split == "near")
    assert set(record.host) == {"worker", "attempts", "wall_s", "reset_s", "observe_s", "policy_s", "finished"}
    assert record.metrics["distance"] < 0.05 and record.inferences == -(-record.steps // 10)


@pytest.mark.parametrize("name", ["organisation/model", "../../elsewhere", "/absolute", ".hidden", "a b\nc", "x" * 300])
def test_a_checkpoints_name_leads_nowhere_else(
    pointmass: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = default_folder(load_suite(pointmass), name)
    assert folder.parent == Path("results/runs") and len(folder.name) < 200
    assert folder.name.startswith("pointmass-") and not set(folder.name) & set("/\n ")
    folder.mkdir(parents=True)
    assert default_folder(load_suite(pointmass), name) != folder
