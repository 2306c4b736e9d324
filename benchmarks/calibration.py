"""Calibration of the gate's sequential test: its error rates, and the number of pairs to a verdict.

Simulates comparisons of a candidate with a baseline, ten tasks with fifty scenes each, and decides them with the rule
of ``evalkit gate`` (:func:`evalkit.stats.sequential.decide`)::

    python benchmarks/calibration.py --out results/calibration
    python benchmarks/calibration.py --quick --out somewhere

Writes calibration.csv (healthy candidates, and candidates that are worse by exactly the margin), lengths.csv (the same
for average lengths of chains), fixed.csv (against a test with a fixed number of pairs), order.csv (the effect of the
order), power.csv with its plot, and README.md with the tables. Seeds are fixed, so the files are the same on every
machine.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from calibration_report import plot_power, report
from scipy.optimize import brentq
from scipy.stats import beta, binom

from evalkit.stats.sequential import ErrorRates, decide
from evalkit.stats.simulation import CORRELATIONS, discordant_shares, simulate_differences

ERROR_RATES = ErrorRates()
ALPHA, BETA, MARGIN = ERROR_RATES.alpha, ERROR_RATES.beta, ERROR_RATES.margin
RATES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
TASKS, SCENES, CAPS = 10, 50, (500, 100)
TASK_DISTANCE = 0.14
CHUNK = 2000  # comparisons at once, to limit memory


def task_shifts(rng: np.random.Generator, runs: int, apart: float, order: str = "rounds") -> np.ndarray:
    """Return each pair's distance of candidate and baseline: half of the tasks gain, half lose."""
    tasks = np.repeat([-apart, apart], TASKS // 2)
    if order == "rounds":
        whole = rng.permuted(np.tile(tasks, (runs * SCENES, 1)), axis=1)
        return whole.reshape(runs, TASKS * SCENES)
    if order == "shuffled":
        return rng.permuted(np.tile(np.repeat(tasks, SCENES), (runs, 1)), axis=1)
    in_tasks = np.tile(tasks, (runs, 1)) if order == "losers first" else rng.permuted(np.tile(tasks, (runs, 1)), axis=1)
    return np.repeat(in_tasks, SCENES, axis=1)


def simulate_comparisons(
    seed: str, runs: int, rate: float, drop: float, correlation: float, apart: float, order: str
) -> Iterator:
    """Yield arrays of differences, a comparison per row, in the order in which the test consumes them."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    for begin in range(0, runs, CHUNK):
        shift = task_shifts(rng, min(CHUNK, runs - begin), apart, order)
        before, after = rate - shift / 2, rate + shift / 2 - drop
        yield simulate_differences(rng, np.clip(before, 0, 1), np.clip(after, 0, 1), correlation)


def run_tests(chunks: Iterator, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdicts and the numbers of pairs of all chunks."""
    parts = [decide(chunk, ERROR_RATES, every) for chunk in chunks]
    return np.concatenate([v for v, _ in parts]), np.concatenate([n for _, n in parts])


def upper_limit(found: float, runs: int) -> float:
    """Return Clopper and Pearson's upper limit, one-sided 95 %."""
    count = round(found * runs)
    return 1.0 if count == runs else float(beta.ppf(0.95, count + 1, runs - count))


def error_shares(healthy: tuple, worse: tuple, cap: int) -> dict[str, Any]:
    """Return the shares of verdicts within ``cap`` pairs, for healthy candidates and for those worse by the margin."""
    verdict, pairs = np.where(healthy[1] <= cap, healthy[0], 0), np.minimum(healthy[1], cap)
    passed = float(((worse[0] > 0) & (worse[1] <= cap)).mean())
    failed, runs = float((verdict < 0).mean()), len(verdict)
    row = {"cap": cap, "runs": runs, "false_fail": failed, "false_fail_upper": upper_limit(failed, runs)}
    row |= {"false_pass": passed, "false_pass_upper": upper_limit(passed, len(worse[0]))}
    row |= {"passed": float((verdict > 0).mean()), "inconclusive": float((verdict == 0).mean())}
    return row | {"pairs_mean": float(pairs.mean()), "pairs_median": float(np.median(pairs))}


def success_rates(runs: int, rates: tuple[float, ...]) -> pd.DataFrame:
    """Return the false alarms and false passes for success rates, over every setting."""
    rows = []
    for rate in rates:
        for name, correlation in CORRELATIONS.items():
            for apart in (0.0, min(TASK_DISTANCE, 2 * (1 - rate))):
                for every in (1, TASKS):
                    seed = f"{rate} {name} {apart:.3f}"  # the same comparisons for both intervals between looks
                    kinds = [
                        run_tests(
                            simulate_comparisons(f"{seed} {drop}", runs, rate, drop, correlation, apart, "rounds"),
                            every,
                        )
                        for drop in (0.0, MARGIN)
                    ]
                    given = {"rate": rate, "correlation": name, "tasks_apart": round(apart, 3), "every": every}
                    rows += [given | error_shares(*kinds, cap) for cap in CAPS]
    return pd.DataFrame(rows)


def average_lengths(runs: int) -> pd.DataFrame:
    """Return the same for average lengths: chains of five with one success probability per sequence."""
    rows = []
    for rate in (0.75, 0.9, 0.97):
        for name, correlation in CORRELATIONS.items():
            size = 1 / max(correlation / 3, 1e-9) - 1
            a, b = rate * size, (1 - rate) * size
            moments = np.cumprod([(a + i) / (a + b + i) for i in range(5)])
            mean = float(moments.mean())

            def share(left: float, moments: np.ndarray = moments) -> float:
                return float((left ** np.arange(1, 6) * moments).mean())

            worse = brentq(lambda left, share=share, mean=mean: share(left) - mean + MARGIN, 0.1, 1)
            kinds = []
            for left in (1.0, float(worse)):
                rng = np.random.default_rng(zlib.crc32(f"lengths {rate} {name} {left}".encode()))
                chunks = (chain_differences(rng, min(CHUNK, runs - i), a, b, left) for i in range(0, runs, CHUNK))
                kinds.append(run_tests(chunks, 1))
            rows += [{"length": mean * 5, "correlation": name} | error_shares(*kinds, cap) for cap in CAPS]
    return pd.DataFrame(rows)


def chain_differences(rng: np.random.Generator, runs: int, a: float, b: float, left: float) -> np.ndarray:
    """Return the differences in sub-tasks solved in a row, over five."""
    chance = rng.beta(a, b, (runs, TASKS * SCENES)) if min(a, b) < 1e6 else np.full((runs, TASKS * SCENES), a / (a + b))

    def solved(one: np.ndarray) -> np.ndarray:
        first_failure = np.floor(np.log(1 - rng.random(one.shape)) / np.log(np.clip(one, 1e-12, 1 - 1e-12)))
        return np.minimum(first_failure, 5)

    return (solved(chance * left) - solved(chance)) / 5


def fixed_size(runs: int, rates: tuple[float, ...]) -> pd.DataFrame:
    """Return the pairs to a verdict of healthy candidates, for plans of the size of a fixed-size test.

    The fixed-size test has the same error rates. Its size is (z_alpha + z_beta)² s / margin², with the mean square s of
    D. This normal approximation is too optimistic if few pairs disagree; ``exact_n`` is the size of the exact binomial
    test on the pairs lost, which is valid there. If all pairs agree, no test that is valid for every D can pass before
    log beta / log(1 - margin).
    """
    quantile = NormalDist().inv_cdf
    rows = []
    for rate in rates:
        for name, correlation in CORRELATIONS.items():
            square = sum(discordant_shares(rate, 0.0, correlation))
            size = int(np.ceil((quantile(1 - ALPHA) + quantile(1 - BETA)) ** 2 * square / MARGIN**2))
            least = int(np.ceil(np.log(BETA) / np.log(1 - MARGIN)))
            rng = np.random.default_rng(zlib.crc32(f"fixed {rate} {name}".encode()))
            plans = (np.full((min(500, runs - i), max(size, 500)), rate) for i in range(0, runs, 500))
            _, used = run_tests((simulate_differences(rng, plan, plan, correlation) for plan in plans), 1)
            row = {"rate": rate, "correlation": name, "disagree": square, "fixed_n": size}
            row |= {"exact_n": exact_size(square / 2), "least_possible": least}
            row |= {"pairs_mean": float(used.mean()), "of_fixed_n": float(used.mean() / size)}
            rows.append(row | {"of_500": float(np.minimum(used, 500).mean() / 500)})
    return pd.DataFrame(rows)


def exact_size(lost: float) -> int | None:
    """Return the pairs for an exact binomial test on pairs lost with both error rates; None if there are none."""
    for pairs in range(1, 2000):
        allowed = int(binom.ppf(BETA, pairs, MARGIN)) - 1  # pairs that a PASS may lose
        if allowed >= 0 and binom.sf(allowed, pairs, lost) <= ALPHA:
            return pairs
    return None


def pair_orders(runs: int) -> pd.DataFrame:
    """Return the false alarms by the order of the pairs, on tasks that differ by 14 points but not in the mean."""
    rows = []
    for order in ("losers first", "task by task", "shuffled", "rounds"):
        for rate in (0.7, 0.9):
            chunks = simulate_comparisons(f"{order} {rate}", runs, rate, 0.0, 0.0, TASK_DISTANCE, order)
            verdict, _ = run_tests(chunks, 1)
            failed = float((verdict < 0).mean())
            rows.append({"order": order, "rate": rate, "runs": runs, "false_fail": failed})
    return pd.DataFrame(rows)


def power_curves(runs: int) -> pd.DataFrame:
    """Return the shares of both verdicts within 500 pairs, against the true drop."""
    rows = []
    for name, correlation in CORRELATIONS.items():
        for rate in (0.7, 0.9, 0.97):
            for drop in np.arange(16) / 100:
                seed = f"power {name} {rate} {drop}"
                verdict, pairs = run_tests(
                    simulate_comparisons(seed, runs, rate, float(drop), correlation, 0.0, "rounds"), 1
                )
                row = {"correlation": name, "rate": rate, "drop": float(drop), "runs": runs}
                row |= {"fails": float((verdict < 0).mean()), "passes": float((verdict > 0).mean())}
                rows.append(row | {"pairs_mean": float(pairs.mean())})
    return pd.DataFrame(rows)


def make_tables(quick: bool) -> dict[str, pd.DataFrame]:
    """Return all tables by name."""
    runs, few, rates = (400, 200, (0.5, 0.97)) if quick else (20_000, 2000, RATES)
    tables = {}
    for name, make in {
        "calibration": lambda: success_rates(runs, rates),
        "lengths": lambda: average_lengths(few if quick else runs),
        "fixed": lambda: fixed_size(few, rates),
        "order": lambda: pair_orders(few),
        "power": lambda: power_curves(50 if quick else few),
    }.items():
        began = time.perf_counter()
        tables[name] = make()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return tables


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    parser.add_argument("--quick", action="store_true", help="a few hundred comparisons of a few settings")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = make_tables(options.quick)
    for name, table in tables.items():
        table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    plot_power(tables["power"], MARGIN, options.out)
    (options.out / "README.md").write_text(report(tables, ERROR_RATES), encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
