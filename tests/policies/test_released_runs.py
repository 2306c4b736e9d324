"""Whole runs of a checkpoint of the released shape: real images from real simulators, through the real loading path."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import invoke
from support.observations import seen_with_exact_requests
from support.requirements import need
from support.runs import shortened, shortened_folder

from evalkit.analysis.summary import summarize
from evalkit.errors import PolicyProblem
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.testing import canonical

pytestmark = pytest.mark.sim


STEPS = 40  # of an episode: these tests are about requests and replies, and every image takes its time

# What several tests run.
TWO_TASKS: dict[str, Any] = {"tasks": ["reach-v3", "door-open-v3"], "episodes": 1}
LATE: dict[str, Any] = {"tasks": ["reach-v3"], "episodes": 3, "delay": "2", "horizon": 5}


def played(out: Path, suite: str, **options: Any) -> list[dict[str, Any]]:
    play(RunOptions(shortened(suite, STEPS), out=out, **options), Silent())
    return canonical(read_journal(out).values())


@pytest.fixture(scope="module")
def plain_run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta-World by one worker, while the world waits for the policy. Shared: change a copy."""
    need("metaworld")
    out = tmp_path_factory.mktemp("plain") / "run"
    played(out, "metaworld", checkpoint=str(tiny), workers=1, **TWO_TASKS)
    return out


@pytest.fixture(scope="module")
def naive_run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Meta-World with a delay that the policy takes no account of."""
    need("metaworld")
    out = tmp_path_factory.mktemp("naive") / "run"
    return played(out, "metaworld", checkpoint=str(tiny), workers=2, execution="naive", **LATE)


@contextmanager
def serving(checkpoint: Path, suite: str) -> Iterator[str]:
    """Run `evalkit serve` in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "evalkit", "serve", "--checkpoint", str(checkpoint), "--suite", suite]
    process = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        found = re.search(r"ws://\S+", said)
        assert found, said + process.stderr.read()
        yield found.group()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_metaworld_to_a_table_the_same_however_it_is_run(tiny: Path, plain_run: Path, tmp_path: Path) -> None:
    one = canonical(read_journal(plain_run).values())
    assert one == played(tmp_path / "2", "metaworld", checkpoint=str(tiny), workers=2, shuffle=1, **TWO_TASKS)
    assert [r["inferences"] for r in one] == [4, 4] and one[0]["digest"] != one[1]["digest"]
    assert summarize(plain_run).finished == 2
    manifest = read_manifest(plain_run).checkpoint
    assert manifest["metadata"]["robot_type"] == "metaworld" and len(manifest["metadata"]["weights_sha256"]) == 64
    fixed = {"settings": {"max_batch": 2, "batch_invariant": True}, **TWO_TASKS}
    alone = played(tmp_path / "3", "metaworld", checkpoint=str(tiny), workers=1, **fixed)
    assert alone == played(tmp_path / "4", "metaworld", checkpoint=str(tiny), workers=2, **fixed)


@pytest.mark.parametrize("execution", ["rtc", "prefix"])
def test_metaworld_while_the_policy_thinks_is_the_same_however_it_is_run(
    tiny: Path, naive_run: list[dict[str, Any]], tmp_path: Path, execution: str
) -> None:
    trained = ":async_train=true" if execution == "prefix" else ""
    late = {"checkpoint": f"{tiny}{trained}", "execution": execution, **LATE}
    one = played(tmp_path / "1", "metaworld", workers=1, **late)
    assert one == played(tmp_path / "3", "metaworld", workers=3, shuffle=1, **late)
    journal = tmp_path / "3" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-700])  # as a kill leaves it: with a torn last line
    assert one == played(tmp_path / "3", "metaworld", workers=1, resume=True, **late)
    assert [r["inferences"] for r in one] == [r["inferences"] for r in naive_run] == [8] * 3
    assert all(a["digest"] != b["digest"] for a, b in zip(one, naive_run, strict=True))


def test_real_time_chunking_from_the_command_line(tiny: Path, tmp_path: Path) -> None:
    need("metaworld")
    suite = shortened_folder("metaworld", STEPS, tmp_path / "suite")
    command = ["run", suite, "--checkpoint", f"{tiny}:max_guidance=4", "--task", "reach-v3", "--episodes", "1"]
    late = ["--execution", "rtc", "--delay", "2", "--workers", "1", "--out", tmp_path / "run", "--json"]
    done = invoke(*command, *late)
    assert done.exit_code == 0 and json.loads(done.stdout)["errors"] == 0
    manifest = read_manifest(tmp_path / "run")
    assert (manifest.execution["name"], manifest.execution["horizon"]) == ("rtc", 5)
    assert manifest.checkpoint["parameters"]["max_guidance"] == 4.0


def test_metaworld_through_a_server_is_the_same_run(tiny: Path, plain_run: Path, tmp_path: Path) -> None:
    with serving(tiny, "metaworld") as url:
        there = played(tmp_path / "there", "metaworld", checkpoint=f"remote:url={url}", **TWO_TASKS)
    assert there == canonical(read_journal(plain_run).values())
    metadata = read_manifest(tmp_path / "there").checkpoint["metadata"]
    assert metadata["unsupported"] == []
    here = read_manifest(plain_run).checkpoint["metadata"]
    assert metadata["server"]["metadata"] == {name: fact for name, fact in here.items() if name != "where"}


def test_a_model_that_returns_nan_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    need("metaworld")
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    tensors = {k: v.clone() for k, v in load_file(broken / "model.safetensors").items()}
    name = next(k for k in sorted(tensors) if k.startswith("action_output"))
    save_file({**tensors, name: tensors[name] * np.nan}, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PolicyProblem, match=r"the policy returned nan at metaworld/easy/reach-v3/0/.* step 0"):
        played(tmp_path / "run", "metaworld", checkpoint=str(broken), tasks=["reach-v3"], episodes=1)


def test_libero_to_a_table_the_same_through_a_server(tiny: Path, tmp_path: Path) -> None:
    need("libero")
    options: dict[str, Any] = {"splits": ["object"], "tasks": ["0"], "episodes": 2}
    here = played(tmp_path / "here", "libero", checkpoint=str(tiny), **options)
    with serving(tiny, "libero") as url:
        there = played(tmp_path / "there", "libero", checkpoint=f"remote:url={url}", **options)
    assert here == there and [r["inferences"] for r in here] == [4, 4]
    assert summarize(tmp_path / "here").finished == 2


def test_libero_requests_from_the_real_simulator_equal_an_independent_computation(tmp_path: Path) -> None:
    need("libero")
    where = {"suite": shortened("libero", 200), "splits": ["goal"], "tasks": ["3"], "out": tmp_path}
    assert len(seen_with_exact_requests("libero", "libero_all", reach=1, chunk=10, **where)) >= 20
