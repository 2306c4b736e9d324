from __future__ import annotations

import math
from collections import Counter
from itertools import chain, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.stats.rounds import rounds
from evalkit.stats.sequential import PASS, REGRESSION, ErrorRates, PairedTest, SplitTests, confidence_sequence, decide

LOOSE = ErrorRates(alpha=0.3, beta=0.3, margin=0.25)
differences = st.lists(st.floats(-1, 1, allow_nan=False), max_size=60)


def wealths(values: list[float], error_rates: ErrorRates = LOOSE, every: int = 1) -> tuple[float, float]:
    """Both e-values after all of the values, without verdicts."""
    test = PairedTest(ErrorRates(1e-300, 1e-300, error_rates.margin))
    for place, value in enumerate(values, 1):
        test.update(value, place % every == 0)
    return test.evidence.against_not_worse, test.evidence.against_worse


def expected(steps: list[dict[float, float]], every: int = 1) -> tuple[float, float]:
    """The mean of both e-values over all sequences of independent steps, each a value → probability."""
    total = np.zeros(2)
    for path in product(*(step.items() for step in steps)):
        total += math.prod(chance for _, chance in path) * np.array(wealths([value for value, _ in path], every=every))
    return float(total[0]), float(total[1])


NOT_WORSE = [{-1: 0.3, 0: 0.4, 1: 0.3}, {-0.5: 0.5, 0.5: 0.5}, {-1: 0.2, 0.25: 0.8}]
WORSE = [{-1: 0.25, 0: 0.75}, {-0.5: 0.75, 0.5: 0.25}, {-1: 0.5, 0: 0.25, 1: 0.25}]


@pytest.mark.parametrize("step", NOT_WORSE)
def test_evidence_against_a_candidate_that_is_no_worse_stays_one_in_the_mean(step: dict[float, float]) -> None:
    for pairs in range(1, 6):
        assert expected([step] * pairs)[0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("step", WORSE)
def test_evidence_for_a_candidate_that_is_worse_by_the_margin_stays_one_in_the_mean(step: dict[float, float]) -> None:
    for pairs in range(1, 6):
        assert expected([step] * pairs)[1] == pytest.approx(1, abs=1e-9)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), max_size=8), st.integers(0, 2))
def test_each_step_is_fair_given_everything_before(past: list[float], which: int) -> None:
    before = wealths(past)
    fail = sum(chance * wealths([*past, d])[0] for d, chance in NOT_WORSE[which].items())
    good = sum(chance * wealths([*past, d])[1] for d, chance in WORSE[which].items())
    assert (fail, good) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("shifts", [(0.3, -0.3), (0.5, -0.2, -0.3), (0.1, 0.2, -0.3)])
def test_a_round_of_tasks_that_differ_is_at_most_fair(shifts: tuple[float, ...]) -> None:
    tasks = [{-1: (1 - s) / 2, 1: (1 + s) / 2} for s in shifts]
    worse = [{-1: (1.25 - s) / 2, 1: (0.75 + s) / 2} for s in shifts]
    for side, round_ in enumerate((tasks, worse)):
        first = [expected(list(order), len(shifts))[side] for order in permutations(round_)]
        assert max(first) <= 1 + 1e-12
        second = [expected([*round_, *order], len(shifts))[side] for order in list(permutations(round_))[:2]]
        assert max(second) <= max(first) + 1e-12


def test_without_replacement_a_wealth_at_a_planned_end_is_at_most_fair() -> None:
    units = [0.6, 0.2, 0.0, -0.3, -0.5]
    for taken in range(1, 6):
        drawn = [wealths(list(order[:taken]), every=taken)[0] for order in permutations(units)]
        assert np.mean(drawn) <= 1 + 1e-12


@given(differences)
def test_a_verdict_stays_and_each_needs_its_own_level(values: list[float]) -> None:
    test, found = PairedTest(LOOSE), []
    for value in values:
        found.append(test.update(value))
    reached = [v for v in found if v]
    assert len(set(reached)) <= 1 and found == [None] * (len(found) - len(reached)) + reached
    if test.verdict:
        assert test.pairs == len(found) - len(reached) + 1
        before = test.evidence
        assert test.update(1.0) == test.update(-1.0) == test.verdict and test.evidence == before
        seen = before.against_not_worse if test.verdict == REGRESSION else before.against_worse
        assert seen >= 1 / 0.3 * (1 - 1e-9)
    else:
        assert test.pairs == len(values)


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=30, max_size=30), min_size=1, max_size=3), st.integers(1, 7))
def test_many_at_once_decide_as_one_by_one(rows: list[list[float]], every: int) -> None:
    verdicts, used = decide(rows, LOOSE, every)
    for row, verdict, pairs in zip(rows, verdicts, used, strict=True):
        test = PairedTest(LOOSE)
        for place, value in enumerate(row, 1):
            test.update(value, place % every == 0)
        assert (test.verdict, test.pairs) == ({-1: REGRESSION, 0: None, 1: PASS}[int(verdict)], pairs)


def test_the_same_pairs_without_a_single_difference_pass_after_some_70() -> None:
    test = PairedTest()
    while test.update(0.0) is None:
        assert test.pairs < 100
    assert test.verdict == PASS and 59 <= test.pairs <= 75  # no valid test can pass before 59: .95 ** 58 > .05


def test_a_candidate_that_loses_everything_fails_within_ten() -> None:
    test = PairedTest()
    while test.update(-1.0) is None:
        assert test.pairs < 15
    assert test.verdict == REGRESSION and test.pairs <= 10


def test_a_real_drop_smaller_than_the_margin_is_a_regression_first() -> None:
    test = PairedTest(LOOSE)
    for value in [-0.2] * 100:
        test.update(value, look=False)
    evidence = test.evidence
    assert evidence.against_not_worse > 1 / 0.3 and evidence.against_worse > 1 / 0.3
    assert test.verdict is None and test.look() == REGRESSION


@pytest.mark.parametrize("bad", [1.1, -2.0, math.nan, math.inf])
def test_what_is_no_difference_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="from -1 to 1"):
        PairedTest().update(bad)


@pytest.mark.parametrize(
    "fields", [{"alpha": 0.0}, {"alpha": 0.5}, {"beta": -1.0}, {"beta": math.nan}, {"margin": 0.0}, {"margin": 1.0}]
)
def test_levels_that_mean_nothing_are_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} must be between 0 and [^\n]*$"):
        ErrorRates(**fields)


def test_splits_share_alpha_and_all_must_pass() -> None:
    splits = SplitTests(["a", "b"], ErrorRates())
    assert [test.error_rates for test in splits.tests.values()] == [ErrorRates(alpha=0.005)] * 2
    for _ in range(100):
        splits.tests["a"].update(0.0)
    assert splits.verdict is None and splits.undecided == ["b"] and splits.tests["a"].verdict == PASS
    for _ in range(100):
        splits.tests["b"].update(0.0)
    assert splits.verdict == PASS and splits.undecided == []


def test_one_split_that_is_worse_decides() -> None:
    splits = SplitTests(["a", "b"])
    while splits.tests["b"].update(-1.0) is None:
        assert splits.verdict is None and splits.undecided == ["a", "b"]
    assert splits.verdict == REGRESSION and splits.undecided == [] and splits.tests["a"].verdict is None
    with pytest.raises(ValueError, match="splits"):
        SplitTests([])


def test_the_interval_holds_the_mean_wherever_one_stops() -> None:
    rng = np.random.default_rng(3)
    kept = 0
    for _ in range(100):
        values = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.8, 0.05], size=150)
        low, high = confidence_sequence(values.tolist())
        kept += low <= -0.1 <= high
        assert low <= values.mean() <= high
    assert kept >= 95
    assert confidence_sequence([]) == (-1.0, 1.0)
    short, long = confidence_sequence([0.0] * 50), confidence_sequence([0.0] * 500)
    assert short[0] < long[0] < 0 < long[1] < short[1] and short[0] == pytest.approx(-short[1])


def test_rounds_have_one_of_each_task_and_depend_on_the_seed_alone() -> None:
    tasks = {"a": list(range(20)), "b": list(range(100, 120)), "c": list(range(200, 220))}
    order = rounds(tasks, 1)
    assert order == rounds(tasks, 1) != rounds(tasks, 2)
    assert all(sorted(unit // 100 for unit in one) == [0, 1, 2] for one in order)
    assert sorted(chain(*order)) == sorted(chain(*tasks.values()))
    assert len({tuple(unit // 100 for unit in one) for one in order}) > 1


def test_tasks_of_different_sizes_are_shuffled_plainly() -> None:
    order = rounds({"a": [1] * 30, "b": [2] * 10}, 0)
    assert {len(one) for one in order} == {1} and Counter(chain(*order)) == {1: 30, 2: 10}
    assert 0 < sum(one == [2] for one in order[:20]) < 10
