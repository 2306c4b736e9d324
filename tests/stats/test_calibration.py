from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
UNLIKELY = 1e-4  # the probability that a test with the stated error rates exceeds these limits


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks are not here")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        return importlib.import_module("calibration")


@pytest.fixture(scope="module")
def quick(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["calibration.py", "--quick", "--out", str(out)])
        script.main()
    return out


def limit(runs: int, level: float) -> float:
    return float(binom.isf(UNLIKELY, runs, level)) / runs


def test_simulated_verdicts_keep_their_levels(quick: Path) -> None:
    import pandas as pd

    for name in ("calibration.csv", "lengths.csv"):
        table = pd.read_csv(quick / name)
        assert (table["false_fail"] <= table["runs"].map(lambda runs: limit(runs, 0.01))).all()
        assert (table["false_pass"] <= table["runs"].map(lambda runs: limit(runs, 0.05))).all()


def test_a_healthy_checkpoint_is_known_in_less_than_half_of_500(quick: Path) -> None:
    import pandas as pd

    table = pd.read_csv(quick / "calibration.csv")
    mine = table[(table["rate"] == 0.97) & (table["cap"] == 500)]
    assert len(mine) == 8 and (mine["pairs_mean"] < 250).all() and (mine["passed"] > 0.9).all()


def test_task_order_cries_wolf_and_a_shuffle_does_not(quick: Path) -> None:
    import pandas as pd

    failed = pd.read_csv(quick / "order.csv").groupby("order")["false_fail"].max()
    assert failed["losers first"] > 0.7 and failed["task by task"] > 0.05
    assert max(failed["shuffled"], failed["rounds"]) <= limit(200, 0.01)


def test_what_is_written_is_the_same_each_time(script: ModuleType, quick: Path, tmp_path: Path) -> None:
    again = script.pair_orders(200).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    assert again == (quick / "order.csv").read_text()
    assert "](power.svg)" in (quick / "README.md").read_text() and (quick / "power.png").is_file()


def test_committed_results_are_within_their_levels() -> None:
    import pandas as pd

    folder = SCRIPT.parent.parent / "results" / "calibration"
    if not folder.is_dir():
        pytest.skip("results are not here")
    for name in ("calibration.csv", "lengths.csv"):
        table = pd.read_csv(folder / name)
        assert (table["runs"] >= 2000).all()
        assert (table["false_fail_upper"] <= 0.01).all() and (table["false_pass_upper"] <= 0.05).all()
