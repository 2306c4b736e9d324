"""Published rows, and the output of `evalkit table --published`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from support.made_up import made_up

from evalkit.analysis.published import PublishedRow, Table, comparisons, published_tables
from evalkit.analysis.summary import summarize
from evalkit.errors import UsageError
from evalkit.locations import published_folder
from evalkit.policies.checkpoint import load_checkpoints
from evalkit.report.formats import render
from evalkit.suite import load_suite

SUITES = ["libero", "calvin", "simpler"]
LIBERO = "xiaomi-robotics-0-libero"


def table(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evalkit", "table", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def libero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that solves all of ``object`` and nine tenths of the rest, below the published figures."""
    folder = tmp_path_factory.mktemp("runs") / "libero"
    return made_up(folder, "libero", lambda e: e.scene % 10 < 9 or e.split == "object", checkpoint=LIBERO)


def average_of_cells(table: Table, row: PublishedRow) -> float | None:
    """The average of a row's own cells, to three decimals; None if a cell is missing."""
    names = [column.name for column in table.columns[:-1]]
    cells = [c for name, c in zip(names, row.cells, strict=True) if name in (row.average_of or names)]
    printed = [cell for cell in cells if cell is not None]
    if len(printed) < len(cells):
        return None
    return round(sum(printed) / (len(printed) if table.average == "mean" else 100) + 1e-9, 3)


def average_is_consistent(table: Table, row: PublishedRow) -> bool | None:
    """Half a last digit of each figure may have been rounded away; None if there is nothing to check."""
    derived = average_of_cells(table, row)
    if derived is None or row.average is None:
        return None
    rounding = 0.05 + 0.05 if table.average == "mean" else 0.005 + 0.0005 * len(row.cells)
    return abs(derived - row.average) <= rounding + 1e-6


@pytest.mark.parametrize("suite", SUITES)
def test_every_rows_average_is_derived_again(suite: str) -> None:
    rows = [(t, row) for t in published_tables(suite, leaderboards=True).values() for row in t.rows]
    assert rows
    for of, row in rows:
        assert row.derived == average_of_cells(of, row), row
        assert row.consistent == average_is_consistent(of, row), row


def test_the_known_contradictions_are_flagged() -> None:
    tables = published_tables("libero")["libero"], *published_tables("calvin").values()
    wrong = [(t.title, row.model) for t in tables for row in t.rows if row.consistent is False]
    assert wrong == [("LIBERO", "EO-1"), ("CALVIN ABCD→D", "FLOWER"), ("CALVIN ABC→D", "FLOWER")]
    board = json.loads((published_folder() / "leaderboards" / "evo-sota.json").read_text())
    whole = [row for row in board["rows"] if row["table"] == "libero" and row.get("derived") is not None]
    assert len([row for row in whole if "consistent" in row]) == 156
    assert len([row for row in whole if row.get("consistent") is False]) == 13


def test_the_four_task_average_is_not_taken_for_the_three_task_one() -> None:
    rows = [r for r in published_tables("simpler", True)["google_vm"].rows if r.model == "Xiaomi-Robotics-0"]
    assert [(r.average, r.average_of) for r in rows] == [(85.5, None), (89.0, ["coke", "near", "drawer"])]
    assert all(row.consistent for row in rows)


@pytest.mark.parametrize("suite", SUITES)
def test_columns_are_rows_that_a_whole_run_has(suite: str, tmp_path: Path) -> None:
    splits = list(load_suite(suite).splits)
    splits = [s for s in splits if s in str(published_tables(suite))]
    run = made_up(tmp_path / "run", suite, lambda e: e.scene % 2, episodes=2, splits=splits)
    for comparison in comparisons([summarize(run)]):
        assert None not in [cell.value for cell in comparison.rows[0].cells], comparison.table.title


def test_checkpoints_and_published_rows_tell_the_same() -> None:
    rows = {
        (row.checkpoint, column.split if suite != "libero" else None): row.average / column.scale
        for suite in SUITES
        for of in published_tables(suite).values()
        for row in of.rows
        if row.checkpoint and row.average is not None and (column := of.columns[-1])
    }
    scores = {
        (name, place.partition("/")[2] or None): score
        for name, entry in load_checkpoints().items()
        if entry.published
        for place, score in entry.published.scores.items()
    }
    assert len(rows) == 6
    for key, figure in rows.items():
        assert scores[key] == pytest.approx(figure)


def test_a_figure_outside_the_interval_is_marked_and_one_inside_is_not(libero: Path) -> None:
    (comparison,) = comparisons([summarize(libero)])
    assert [cell.outside_interval for cell in comparison.rows[0].cells] == [True, False, True, True, True]
    assert [cell.published for cell in comparison.rows[0].cells] == pytest.approx([0.988, 1, 0.988, 0.972, 0.987])


def test_what_was_rounded_away_excludes_nothing(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "libero", lambda e: True, checkpoint=LIBERO, splits=["object"])
    cells = comparisons([summarize(run)])[0].rows[0].cells
    assert [cell.value for cell in cells] == [None, 1.0, None, None, None] and cells[1].outside_interval is False


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ({"execution": {"name": "naive", "horizon": 5, "delay": {"steps": 2}}}, "its execution is naive"),
        ({"incomparable": ["other assets"]}, "other assets"),
    ],
)
def test_what_may_not_be_compared_is_not_marked(tmp_path: Path, manifest: dict[str, object], why: str) -> None:
    run = made_up(tmp_path / "run", "libero", lambda e: False, checkpoint=LIBERO, episodes=2, manifest=manifest)
    (comparison,) = comparisons([summarize(run)])
    assert [cell.outside_interval for cell in comparison.rows[0].cells] == [None] * 5
    assert why in comparison.notes[0] and why in render([summarize(run)], "md", [comparison])


def test_a_part_of_a_split_is_not_put_where_papers_have_the_whole(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "simpler", lambda e: True, splits=["google_vm"], tasks=["open_drawer", "move_near"])
    (comparison,) = comparisons([summarize(run)])
    assert [cell.value for cell in comparison.rows[0].cells] == [None, 1.0, None, None, None]


def test_the_two_drawers_have_a_row_together(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "simpler", lambda e: e.task == "open_drawer", splits=["google_vm"])
    rows = {(r.task, r.metric): r for r in summarize(run).rows if r.split}
    together = rows[(None, "success rate of drawers")]
    assert together.value == 0.5 and together.n == 216
    assert rows[(None, "success rate")].value == pytest.approx((0 + 0 + 0.5 + 0) / 4)


def test_all_formats_have_what_was_measured_and_what_is_published(libero: Path) -> None:
    for form in ("md", "latex"):
        text = table(libero, "--published", "--format", form).stdout
        assert all(part in text for part in ("EO-1", "arXiv:2602.12684, Table 1", "92.5", "91.3"))
        assert ("98.2\\*" if form == "md" else "98.2$^{*}$") in text
    document = json.loads(table(libero, "--published", "--format", "json").stdout)
    assert {"rows", "published", "comparisons"} == set(document) and len(document["published"]) == 12
    held = {(h["split"], h["metric"]): h["outside_interval"] for h in document["comparisons"]}
    assert held[("object", "success rate")] is False and held[(None, "mean of four suites")] is True
    frame = pd.read_csv(StringIO(table(libero, "--published", "--format", "csv").stdout))
    assert len(frame) == len(document["rows"]) + 12 * 5
    assert frame[frame["source"].isna()]["n"].sum() == 3 * 2000 and frame["outside_interval"].notna().sum() == 5
    assert "n_effective" in frame and "n_effective" in document["rows"][0]


def test_leaderboards_come_on_request_with_their_sources(libero: Path) -> None:
    few, many = (table(libero, flag, "--format", "md").stdout for flag in ("--published", "--leaderboards"))
    assert "Evo-SOTA" not in few and "via Evo-SOTA af76132" in many and "via vla-eval 01de46e" in many
    assert "UniVLA (arXiv:2505.06111)" in many and "UniVLA (arXiv:2506.19850)" in many


def test_a_suite_without_published_rows_says_so_and_has_its_table(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "metaworld", lambda e: True, splits=["hard"], episodes=1)
    shown = table(run, "--published")
    assert shown.returncode == 0 and "push-v3" in shown.stdout
    assert shown.stderr.strip() == "metaworld: evalkit has no published rows"
    assert json.loads(table(run, "--published", "--format", "json").stdout)["published"] == []


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(published_folder(), tmp_path / "published")
    monkeypatch.setattr("evalkit.analysis.published.published_folder", lambda: tmp_path / "published")
    path = tmp_path / "published" / "libero.yaml"
    path.write_text(path.read_text().replace("cells: [84.7, 88.4", "cells: [84.7"))
    with pytest.raises(UsageError, match=r"libero\.yaml: tables\.libero: OpenVLA: must have 4 cells: spatial, object"):
        published_tables("libero")


@pytest.mark.parametrize("flag", ["--published", "--leaderboards"])
def test_latex_is_whole(libero: Path, flag: str, tmp_path: Path) -> None:
    text = table(libero, flag, "--format", "latex").stdout
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.S):
        for line in body.splitlines():
            assert line == r"\midrule" or (line.endswith(r" \\") and not line.startswith(("[", "*"))), line
            assert not re.search(r"(?<!\\)[_%#]", re.sub(r"\$[^$]*\$", "", line)), line
            assert line.isascii(), line
    compiler = shutil.which("pdflatex") or shutil.which("tectonic")
    if compiler:
        whole = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + text + "\n\\end{document}\n"
        (tmp_path / "t.tex").write_text(whole)
        subprocess.run([compiler, str(tmp_path / "t.tex")], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
