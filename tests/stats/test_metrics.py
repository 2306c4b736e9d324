from __future__ import annotations

import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from evalkit.analysis.summary import episodes_frame
from evalkit.episode import Episode
from evalkit.records.journal import Record
from evalkit.stats.metrics import Estimate, mean_of, success_rate


def frame(successes: list[bool], repeats: int = 1, same: bool = True) -> pd.DataFrame:
    return episodes_frame(
        Record(Episode("s", "a", "t", scene, 0, repeat), success, digest=f"{scene}{'' if same else repeat}")
        for scene, success in enumerate(successes)
        for repeat in range(repeats)
    )


@pytest.mark.parametrize(("solved", "n"), [(485, 500), (0, 10), (10, 10), (1, 1), (5, 10)])
def test_success_rate_has_wilsons_interval(solved: int, n: int) -> None:
    estimate = success_rate(frame([i < solved for i in range(n)]))
    assert estimate.value == solved / n and estimate.n == estimate.n_effective == n
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(solved, n, method="wilson"), abs=1e-12)


def test_the_published_example_485_of_500() -> None:
    estimate = success_rate(frame([i < 485 for i in range(500)]))
    assert (round(estimate.low or 0, 3), round(estimate.high or 0, 3)) == (0.951, 0.982)


def test_repeats_that_cannot_differ_do_not_narrow_the_interval() -> None:
    once, same, varied = frame([True, False] * 5), frame([True, False] * 5, 3), frame([True, False] * 5, 3, same=False)
    assert success_rate(same).n == 30 and success_rate(same).n_effective == 10
    assert success_rate(same).low == success_rate(once).low
    assert success_rate(varied).n_effective == 30 and (success_rate(varied).low or 0) > (success_rate(once).low or 0)


def test_no_episode_is_no_number() -> None:
    assert success_rate(frame([])) == Estimate(None, None, None, 0, 0)


def test_the_mean_of_equal_parts_is_the_pooled_rate_with_its_interval() -> None:
    parts = [success_rate(frame([i < k for i in range(50)])) for k in (50, 49, 45, 40)]
    pooled = success_rate(frame([i < 184 for i in range(200)]))
    mean = mean_of(parts)
    assert mean.value == pytest.approx(pooled.value) and mean.n_effective == pytest.approx(200)
    assert (mean.low, mean.high) == pytest.approx((pooled.low, pooled.high))


def test_the_mean_counts_parts_equally_and_is_as_sure_as_its_smallest_lets_it() -> None:
    big, small = success_rate(frame([True] * 400)), success_rate(frame([False] * 10))
    mean = mean_of([big, small])
    assert mean.value == 0.5 and mean.n == 410
    assert mean.n_effective == pytest.approx(4 / (1 / 400 + 1 / 10))


def test_a_missing_part_leaves_no_mean() -> None:
    assert mean_of([success_rate(frame([True])), success_rate(frame([]))]).value is None
