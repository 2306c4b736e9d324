"""Differences with intervals and tests, against other implementations, known values and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from evalkit.stats.contrasts import (
    bonett_price,
    holm,
    macro_average,
    paired_lengths,
    paired_rates,
    unpaired_lengths,
    unpaired_rates,
)


def pairs(a: list[float], b: list[float], distinct: list[bool] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {"score_a": np.array(a, float), "score_b": np.array(b, float), "distinct": distinct or [True] * len(a)}
    )


def test_paired_verdicts_are_mcnemars() -> None:
    a = [1] * 80 + [1] * 12 + [0] * 4 + [0] * 4
    b = [1] * 80 + [0] * 12 + [1] * 4 + [0] * 4
    found = paired_rates(pairs(a, b))
    assert (found.only_a, found.only_b, found.n, found.difference) == (12, 4, 100, pytest.approx(-0.08))
    assert found.p == pytest.approx(stats.binomtest(4, 16).pvalue)
    assert found.p == pytest.approx(mcnemar([[80, 12], [4, 4]], exact=True).pvalue)
    assert found.low < -0.08 < found.high and paired_rates(pairs([1, 0], [1, 0])).p == 1.0


def test_observations_that_could_not_differ_count_once() -> None:
    one = paired_rates(pairs([1, 1, 0, 0], [0, 0, 0, 0]))
    again = paired_rates(pairs([1, 1, 0, 0] * 3, [0, 0, 0, 0] * 3, [True] * 4 + [False] * 8))
    assert again.n == 12 and again.n_effective == 4
    assert (again.p, again.low, again.high) == pytest.approx((one.p, one.low, one.high))


def test_the_paired_interval_covers() -> None:
    chance = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        shared = chance.random(60) < 0.7
        before, after = shared | (chance.random(60) < 0.2), shared & (chance.random(60) < 0.9)
        found = paired_rates(pairs(list(before), list(after)))
        assert found.difference == pytest.approx(after.mean() - before.mean())
        hits += found.low <= 0.63 - 0.76 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_bonett_and_prices_interval_as_published() -> None:
    # Bonett and Price 2012: f12 = 9, f21 = 2 of n = 50 pairs
    low, high = bonett_price(9 / 50, 2 / 50, 50)
    p12, p21 = 10 / 52, 3 / 52
    reach = 1.959964 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / 52)
    assert (low, high) == pytest.approx((p12 - p21 - reach, p12 - p21 + reach), abs=1e-6)
    assert bonett_price(1, 0, 1)[1] == 1.0


def test_paired_lengths_see_a_difference_and_its_absence() -> None:
    chance = np.random.default_rng(1)
    before = chance.integers(0, 6, 200) / 5
    after = np.clip(before - (chance.random(200) < 0.3) / 5, 0, 1)
    found = paired_lengths(pairs(list(before), list(after)))
    assert found.p < 0.001 and found.high < 0 and found.only_a is None
    plain = stats.bootstrap((after - before,), np.mean, method="percentile", rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.01)
    same = paired_lengths(pairs(list(before), list(before)))
    assert same.p == 1.0 and same.low < 0 < same.high and same.high < 0.05


def test_unpaired_rates_are_newcombes() -> None:
    first, second = pd.Series([1.0] * 56 + [0.0] * 14), pd.Series([1.0] * 48 + [0.0] * 32)
    found = unpaired_rates(first, second, (70, 80))
    assert (found.a, found.b) == (0.8, 0.6)
    assert (-found.high, -found.low) == pytest.approx((0.0524, 0.3339), abs=1e-4)  # Newcombe 1998, example (a)
    assert found.p == pytest.approx(0.0077, abs=1e-3) and found.only_a is None


def test_unpaired_lengths_and_those_that_never_vary() -> None:
    chance = np.random.default_rng(2)
    found = unpaired_lengths(pd.Series(chance.random(60) * 0.5), pd.Series(chance.random(50)))
    assert found.p < 0.01 and found.low > 0 and found.n == 50
    assert unpaired_lengths(pd.Series([1.0] * 5), pd.Series([1.0] * 5)).difference == 0


def test_parts_of_one_size_are_their_whole_and_others_weigh_alike() -> None:
    small = paired_rates(pairs([1] * 10, [0] * 5 + [1] * 5))
    large = paired_rates(pairs([1] * 90, [1] * 90))
    whole = paired_rates(pairs([1] * 100, [0] * 5 + [1] * 95))
    mean = macro_average([small, large], whole)
    assert mean.difference == pytest.approx(-0.25) and mean.n_effective == pytest.approx(4 / (1 / 10 + 1 / 90))
    assert mean.low < -0.25 < mean.high and mean.p == whole.p
    assert macro_average([small, small], whole) is whole


def test_many_tests_are_held_to_one_level() -> None:
    found = holm([paired_rates(pairs([1] * n, [0] * n)) for n in (3, 6, 9)])
    assert [c.p_adjusted for c in found] == pytest.approx([0.25, 2 * 2 / 64, 3 * 2 / 512])
    assert holm(found[:1])[0].p_adjusted is found[0].p_adjusted


def test_resampling_gives_the_same_interval_and_p_value_each_time() -> None:
    chance = np.random.default_rng(5)
    before, after = chance.random(40), chance.random(40)
    first, second = (paired_lengths(pairs(list(before), list(after))) for _ in range(2))
    assert first == second and first.low < first.high
    assert unpaired_lengths(pd.Series(before), pd.Series(after)) == unpaired_lengths(
        pd.Series(before), pd.Series(after)
    )
