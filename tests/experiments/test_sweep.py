"""Sweeps and timelines: the commands, the table, the files and the pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from support.commands import invoke, refused
from support.paths import POINTMASS, RELAY

from evalkit.analysis.summary import summarize
from evalkit.records.journal import read_journal


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("sweep") / "out"
    modes = ["--execution", "hold", "--execution", "prefix"]
    named = [
        "--checkpoint",
        "oracle-noisy",
        "--delay",
        "0,3",
        "--episodes",
        "2",
        "--workers",
        "1",
        "--out",
        out,
        "--json",
    ]
    result = invoke("sweep", POINTMASS, *modes, *named)
    assert result.exit_code == 0, result.stderr
    return out, json.loads(result.stdout)


def test_a_sweep_is_runs_on_the_same_episodes_and_a_table_of_them(swept: tuple[Path, dict[str, Any]]) -> None:
    out, document = swept
    rows = document["rows"]
    cells = [("sync", "0"), ("hold", "0"), ("hold", "3"), ("prefix", "0"), ("prefix", "3")]
    assert [(r["execution"], r["delay"]) for r in rows] == cells
    for row in rows:
        summary = summarize(out / row["run"])
        assert (row["value"], row["n"], row["pairs"]) == (summary.headline.value, 8, 8)
        assert set(read_journal(out / row["run"])) == set(read_journal(out / "sync"))
    assert rows[1]["value"] == rows[3]["value"] == rows[0]["value"] and rows[1]["difference"] == 0
    assert (
        rows[2]["idle_steps"] > 0 == rows[4]["idle_steps"] and rows[4]["action_age_mean"] > rows[0]["action_age_mean"]
    )
    assert rows[4]["late_chunks"] == 0 and rows[2]["late_chunks"] is None
    assert list(pd.read_csv(out / "sweep.csv")["run"]) == [r["run"] for r in rows]


@pytest.mark.slow
def test_a_sweep_is_drawn(swept: tuple[Path, dict[str, Any]]) -> None:
    from PIL import Image

    picture = np.asarray(Image.open(swept[0] / "sweep.png").convert("RGB"))
    assert picture.shape[1] > 800 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    text = "".join(ElementTree.parse(swept[0] / "sweep.svg").getroot().itertext())
    for word in ("inference delay (control steps)", "success rate (%)", "hold", "prefix", "sync (simulation waits)"):
        assert word in text


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_cut_off(swept: tuple[Path, dict[str, Any]]) -> None:
    out, document = swept
    journal = out / "prefix-3" / "journal.jsonl"
    whole = journal.read_text()
    journal.write_text("".join(whole.splitlines(keepends=True)[:3]))
    for name in ("manifest.json", "journal.jsonl"):
        (out / "hold-3" / name).unlink()
    modes = ["--execution", "hold", "--execution", "prefix", "--checkpoint", "oracle-noisy"]
    named = ["--delay", "0,3", "--episodes", "2", "--out", out, "--resume", "--json"]
    assert json.loads(invoke("sweep", POINTMASS, *modes, *named).stdout) == document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--delay", "0,7"], "must have d <= s"),
        (["--delay", "fast"], "--delay: 'fast' is not a delay"),
        (["--delay", ","], "name at least one delay"),
        (["--delay", "1,1"], "name each once"),
        (["--execution", "sync"], "a sweep compares hold, naive"),
        (["--execution", "rtc"], "does not support it (it supports: prefix)"),
        (["--resume"], "--resume needs --out DIR"),
    ],
)
def test_a_sweep_of_which_a_part_cannot_run_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = [] if "--resume" in arguments else ["--out", tmp_path / "out"]
    result = invoke("sweep", POINTMASS, "--checkpoint", "oracle", *arguments, *out)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["run", "part", "other"])
def test_a_sweep_writes_into_nothing_that_exists(tmp_path: Path, oracle_run: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "other":
        (out / "hold-2").mkdir(parents=True)
        (out / "hold-2" / "notes.txt").touch()
    else:
        shutil.copytree(oracle_run, out if kind == "run" else out / "hold-2")
    before = sorted(out.rglob("*"))
    message = {"run": "holds a run; name another folder", "part": "holds a run already", "other": "is not empty"}[kind]
    arguments = ["--checkpoint", "oracle", "--episodes", "1", "--delay", "0,2", "--execution", "hold", "--out", out]
    assert message in refused(invoke("sweep", POINTMASS, *arguments))
    if kind == "run":
        assert message in refused(invoke("sweep", POINTMASS, *arguments, "--resume"))
    assert sorted(out.rglob("*")) == before


def test_a_timeline_says_what_drove_each_step(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    record = next(iter(read_journal(swept[0] / "hold-3").values()))
    shown = invoke("timeline", swept[0] / "hold-3", record.episode.id, "--plot", tmp_path / "line")
    assert shown.exit_code == 0, shown.stderr
    strip = "".join(line.split()[2] for line in shown.stdout.splitlines() if line.startswith("step"))
    assert len(strip) == record.steps and strip.count(".") == record.execution_stats["idle_steps"]
    assert strip.startswith("AAAAA...BBBBB"[: record.steps])
    assert f"{record.steps} steps, {record.inferences} inferences" in shown.stdout
    assert (tmp_path / "line.png").stat().st_size > 5000 and (tmp_path / "line.svg").exists()
    sync = invoke("timeline", swept[0] / "sync")
    assert sync.exit_code == 0 and "idle for 0 steps" in sync.stdout


def test_a_timeline_that_cannot_be_had_is_explained(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert "unknown episode 'x'" in invoke("timeline", swept[0] / "sync", "x").stderr
    assert "not a run" in invoke("timeline", tmp_path).stderr
    for name in ("", ".", ".."):
        assert "--plot" in refused(invoke("timeline", swept[0] / "sync", "--plot", name))
    invoke("run", RELAY, "--checkpoint", "oracle", "--episodes", "1", "--out", tmp_path / "relay")
    result = invoke("timeline", tmp_path / "relay")
    assert result.exit_code == 2 and "does not record its inference requests" in result.stderr


def test_the_table_of_an_asynchronous_run_says_what_its_execution_did(swept: tuple[Path, dict[str, Any]]) -> None:
    for form in ([], ["--format", "md"], ["--format", "latex"]):
        shown = " ".join(invoke("table", swept[0] / "hold-3", *form).stdout.split())
        assert "hold, horizon 5, delay 3 steps" in shown and "idle for" in shown and "s to success" in shown
