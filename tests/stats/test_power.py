from __future__ import annotations

import json
import time
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from evalkit.analysis.sensitivity import sensitivities
from evalkit.cli import app
from evalkit.errors import UsageError
from evalkit.stats.power import (
    PowerAnalysis,
    detectable_paired,
    detectable_unpaired,
    episodes_unpaired,
    expectations,
    half_width,
    mcnemar_power,
    pairs_needed,
    parse_correlation,
    sequential_needed,
    threshold_alarms,
)
from evalkit.stats.sequential import ErrorRates
from evalkit.stats.simulation import discordant_shares, simulate_differences
from evalkit.suite import load_suite

FALL = PowerAnalysis(0.97, 0.03)


def test_97_to_94_points_takes_590_episodes_an_arm() -> None:
    assert episodes_unpaired(FALL) == 590  # 589.4 by the normal approximation


def test_500_pairs_have_70_to_89_percent_power_for_97_to_94() -> None:
    assert mcnemar_power(500, FALL) == pytest.approx(0.70, abs=0.01)
    assert mcnemar_power(500, PowerAnalysis(0.97, 0.03, correlation=0.6)) == pytest.approx(0.89, abs=0.005)


def test_a_two_point_threshold_cries_wolf() -> None:
    assert round(threshold_alarms(0.95, 500, 0.02), 2) == 0.06
    assert round(threshold_alarms(0.77, 500, 0.02), 2) == 0.22


def test_mcnemars_power_is_that_of_the_exact_test_enumerated() -> None:
    analysis, pairs = PowerAnalysis(0.8, 0.3, alpha=0.1), 7
    lost, gained = discordant_shares(0.8, 0.3, 0.0)
    power = 0.0
    for outcome in product((-1, 0, 1), repeat=pairs):
        down, up = outcome.count(-1), outcome.count(1)
        chance = lost**down * gained**up * (1 - lost - gained) ** (pairs - down - up)
        if down + up and binomtest(down, down + up, alternative="greater").pvalue <= 0.1:
            power += chance
    assert mcnemar_power(pairs, analysis) == pytest.approx(power)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_simulated_scenes_disagree_as_often_as_the_formula_says(correlation: float) -> None:
    before = np.full(200_000, 0.9)
    drawn = simulate_differences(np.random.default_rng(0), before, before - 0.1, correlation)
    assert ((drawn < 0).mean(), (drawn > 0).mean()) == pytest.approx(
        discordant_shares(0.9, 0.1, correlation), abs=0.003
    )


def test_what_is_needed_is_the_least_that_is_enough() -> None:
    needed = pairs_needed(FALL)
    assert needed and mcnemar_power(needed, FALL) >= 0.8 > mcnemar_power(needed - 1, FALL)
    drop = detectable_paired(500, 0.97, 0.05, 0.8, 0.0)
    assert drop and mcnemar_power(500, PowerAnalysis(0.97, drop)) >= 0.8 > mcnemar_power(
        500, PowerAnalysis(0.97, drop - 0.001)
    )
    assert detectable_unpaired(590, 0.97, 0.05, 0.8) == 0.03
    assert detectable_unpaired(3, 0.05, 0.05, 0.8) is None


def test_the_sequential_test_ends_sooner_on_average_than_it_may() -> None:
    found = sequential_needed(PowerAnalysis(0.97, 0.05), runs=400)
    assert found and found.cap and found.mean < found.cap and found.healthy < found.cap
    assert sequential_needed(PowerAnalysis(0.5, 0.001)) is None


def test_a_suites_numbers_count_scenes_not_repeats() -> None:
    rows = {(r.split, r.task is not None): r for r in sensitivities(load_suite("simpler"), 0.7, drop=0.1)}
    assert (rows["widowx", True].episodes, rows["widowx", True].scenes) == (144, 24)
    assert rows["widowx", False].scenes == 96
    libero = sensitivities(load_suite("libero"), 0.95)
    assert libero[0].split is None and libero[0].scenes == 2000
    spatial = next(r for r in libero if r.split == "spatial" and r.task is None)
    assert spatial.scenes == 500 and spatial.half_width == half_width(0.95, 500) == pytest.approx(0.019, abs=5e-4)
    assert spatial.unpaired == pytest.approx(0.041) and (spatial.correlated or 1) < (spatial.paired or 0)


def test_expectations_are_quick_repeatable_and_honest_about_size() -> None:
    began = time.process_time()
    big = expectations(ErrorRates(), 2000, 0.97)
    assert time.process_time() - began < 5
    assert big == expectations(ErrorRates(), 2000, 0.97)
    few = expectations(ErrorRates(), 24, 0.97)
    assert few.passes == 0 and few.pairs == pytest.approx(24, abs=0.5)
    assert (big.detectable or 1) < 0.06 < (few.detectable or 1) and big.passes > 0.9
    assert "at most 1.00% of runs" in " ".join(big.sentences)
    assert "detects no drop" in expectations(ErrorRates(), 4, 0.97).sentences[0]


def plan(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_plan_says_how_many() -> None:
    code, out, _ = plan("--rate", "0.97", "--drop", "0.03", "--json")
    document = json.loads(out)
    assert code == 0 and document["unpaired"] == 590
    assert document["paired"]["correlated"]["pairs"] < document["paired"]["independent"]["pairs"] < 700
    assert document["paired"]["independent"]["sequential"]["healthy"] < 590
    code, out, _ = plan("--rate", "0.97", "--drop", "0.03", "--correlation", "0.3")
    assert code == 0 and "590" in out and "Fail if it falls by more than 2 points" in out


def test_plan_of_a_suite_says_what_it_shows() -> None:
    code, out, _ = plan("calvin", "--drop", "0.03", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and [row["scenes"] for row in rows] == [1000, 1000] and 0.8 < rows[0]["power"] < 0.9
    code, out, _ = plan("metaworld", "--rate", "0.8")
    assert code == 0 and "very_hard" in out and "one of 28 tasks" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "97", "--drop", "0.03"], "--rate 97"),
        (["--rate", "nan", "--drop", "0.03"], "--rate nan"),
        (["--rate", "0.5", "--drop", "0.5"], "less than the rate"),
        (["--rate", "0.5", "--drop", "0"], "--drop 0"),
        (["--rate", "0.5", "--drop", "0.1", "--alpha", "0.5"], "--alpha 0.5"),
        (["--rate", "0.5", "--drop", "0.1", "--power", "1"], "--power 1"),
        (["--rate", "0.5", "--drop", "0.1", "--correlation", "much"], "--correlation much"),
        (["--rate", "0.5"], "--rate P --drop D"),
        (["libero", "--rate", "2"], "--rate 2"),
        (["libero", "--drop", "0.96"], "--drop 0.96"),
        (["nowhere"], "unknown suite"),
    ],
)
def test_plan_refuses_in_one_line(arguments: list[str], says: str) -> None:
    code, out, err = plan(*arguments)
    assert code == 2 and out == "" and says in err and err.count("\n") == 1


def test_correlations_by_name_and_number() -> None:
    assert (parse_correlation("independent"), parse_correlation("correlated"), parse_correlation("0.25")) == (
        0,
        0.6,
        0.25,
    )
    with pytest.raises(UsageError, match=r"0 to 0\.99"):
        parse_correlation("1")
