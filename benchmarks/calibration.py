"""Does the gate's sequential test keep what it promises, and how soon does it know?

Simulates comparisons of a candidate with a baseline, ten tasks with fifty scenes each, and decides them by the very
rule that ``evalkit gate`` uses (:func:`evalkit.stats.sequential.decide`)::

    python benchmarks/calibration.py --out results/calibration
    python benchmarks/calibration.py --quick --out somewhere

Writes calibration.csv (healthy candidates, and such as are worse by exactly the margin), lengths.csv (the same for
average lengths of chains), fixed.csv (against a test with a fixed number of pairs), order.csv (why order matters),
power.csv with its picture, and README.md with the tables. Seeds are fixed: the files are the same wherever made.
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
from scipy.optimize import brentq
from scipy.stats import beta, binom

from evalkit.report.plots import plot_power
from evalkit.stats.sequential import ErrorRates, decide
from evalkit.stats.simulation import CORRELATIONS, discordant_shares, simulate_differences

LEVELS = ErrorRates()
RATES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
TASKS, SCENES, CAPS = 10, 50, (500, 100)
APART = 0.14
CHUNK = 2000  # comparisons at once, for memory


def shifts(rng: np.random.Generator, runs: int, apart: float, order: str = "rounds") -> np.ndarray:
    """Each pair's task, as its candidate's distance from the baseline: half of the tasks gain, half lose."""
    tasks = np.repeat([-apart, apart], TASKS // 2)
    if order == "rounds":
        whole = rng.permuted(np.tile(tasks, (runs * SCENES, 1)), axis=1)
        return whole.reshape(runs, TASKS * SCENES)
    if order == "shuffled":
        return rng.permuted(np.tile(np.repeat(tasks, SCENES), (runs, 1)), axis=1)
    in_tasks = np.tile(tasks, (runs, 1)) if order == "losers first" else rng.permuted(np.tile(tasks, (runs, 1)), axis=1)
    return np.repeat(in_tasks, SCENES, axis=1)


def compared(seed: str, runs: int, rate: float, drop: float, correlation: float, apart: float, order: str) -> Iterator:
    """Differences in the order they are consumed, so many comparisons at a time."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    for begin in range(0, runs, CHUNK):
        shift = shifts(rng, min(CHUNK, runs - begin), apart, order)
        before, after = rate - shift / 2, rate + shift / 2 - drop
        yield simulate_differences(rng, np.clip(before, 0, 1), np.clip(after, 0, 1), correlation)


def decided(chunks: Iterator, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts and pairs of all chunks."""
    parts = [decide(chunk, LEVELS, every) for chunk in chunks]
    return np.concatenate([v for v, _ in parts]), np.concatenate([n for _, n in parts])


def upper(found: float, runs: int) -> float:
    """Clopper and Pearson's upper limit, one-sided 95 %."""
    count = round(found * runs)
    return 1.0 if count == runs else float(beta.ppf(0.95, count + 1, runs - count))


def judged(healthy: tuple, worse: tuple, cap: int) -> dict[str, Any]:
    """What became of healthy candidates, and of those that are worse by the margin, with so many pairs at most."""
    verdict, pairs = np.where(healthy[1] <= cap, healthy[0], 0), np.minimum(healthy[1], cap)
    passed = float(((worse[0] > 0) & (worse[1] <= cap)).mean())
    failed, runs = float((verdict < 0).mean()), len(verdict)
    row = {"cap": cap, "runs": runs, "false_fail": failed, "false_fail_upper": upper(failed, runs)}
    row |= {"false_pass": passed, "false_pass_upper": upper(passed, len(worse[0]))}
    row |= {"passed": float((verdict > 0).mean()), "inconclusive": float((verdict == 0).mean())}
    return row | {"pairs_mean": float(pairs.mean()), "pairs_median": float(np.median(pairs))}


def calibration(runs: int, rates: tuple[float, ...]) -> pd.DataFrame:
    """False alarms and false passes of rates, over every setting."""
    rows = []
    for rate in rates:
        for name, correlation in CORRELATIONS.items():
            for apart in (0.0, min(APART, 2 * (1 - rate))):
                for every in (1, TASKS):
                    seed = f"{rate} {name} {apart:.3f}"  # the same comparisons for both ways of looking
                    kinds = [
                        decided(compared(f"{seed} {drop}", runs, rate, drop, correlation, apart, "rounds"), every)
                        for drop in (0.0, LEVELS.margin)
                    ]
                    given = {"rate": rate, "correlation": name, "tasks_apart": round(apart, 3), "every": every}
                    rows += [given | judged(*kinds, cap) for cap in CAPS]
    return pd.DataFrame(rows)


def lengths(runs: int) -> pd.DataFrame:
    """The same for average lengths: chains of five, each sub-task solved with the sequence's own chance."""
    rows = []
    for rate in (0.75, 0.9, 0.97):
        for name, correlation in CORRELATIONS.items():
            size = 1 / max(correlation / 3, 1e-9) - 1
            a, b = rate * size, (1 - rate) * size
            moments = np.cumprod([(a + i) / (a + b + i) for i in range(5)])
            mean = float(moments.mean())

            def share(left: float, moments: np.ndarray = moments) -> float:
                return float((left ** np.arange(1, 6) * moments).mean())

            worse = brentq(lambda left, share=share, mean=mean: share(left) - mean + LEVELS.margin, 0.1, 1)
            kinds = []
            for left in (1.0, float(worse)):
                rng = np.random.default_rng(zlib.crc32(f"lengths {rate} {name} {left}".encode()))
                chunks = (chains(rng, min(CHUNK, runs - i), a, b, left) for i in range(0, runs, CHUNK))
                kinds.append(decided(chunks, 1))
            rows += [{"length": mean * 5, "correlation": name} | judged(*kinds, cap) for cap in CAPS]
    return pd.DataFrame(rows)


def chains(rng: np.random.Generator, runs: int, a: float, b: float, left: float) -> np.ndarray:
    """Differences in sub-tasks solved in a row, over five."""
    chance = rng.beta(a, b, (runs, TASKS * SCENES)) if min(a, b) < 1e6 else np.full((runs, TASKS * SCENES), a / (a + b))

    def solved(one: np.ndarray) -> np.ndarray:
        first_failure = np.floor(np.log(1 - rng.random(one.shape)) / np.log(np.clip(one, 1e-12, 1 - 1e-12)))
        return np.minimum(first_failure, 5)

    return (solved(chance * left) - solved(chance)) / 5


def fixed(runs: int, rates: tuple[float, ...]) -> pd.DataFrame:
    """Pairs to a verdict of healthy candidates, where a plan is as large as a fixed-size test with the same errors.

    That size is (z_alpha + z_beta)² s / margin², s the mean square of D: the normal approximation, which promises too
    much where few pairs disagree. ``exact_n`` is what the exact binomial test on the pairs lost takes, which is valid
    there. Where all pairs agree, no test that is valid whatever D is can pass before log beta / log(1 - margin).
    """
    quantile = NormalDist().inv_cdf
    rows = []
    for rate in rates:
        for name, correlation in CORRELATIONS.items():
            square = sum(discordant_shares(rate, 0.0, correlation))
            size = int(
                np.ceil((quantile(1 - LEVELS.alpha) + quantile(1 - LEVELS.beta)) ** 2 * square / LEVELS.margin**2)
            )
            least = int(np.ceil(np.log(LEVELS.beta) / np.log(1 - LEVELS.margin)))
            rng = np.random.default_rng(zlib.crc32(f"fixed {rate} {name}".encode()))
            plans = (np.full((min(500, runs - i), max(size, 500)), rate) for i in range(0, runs, 500))
            _, used = decided((simulate_differences(rng, plan, plan, correlation) for plan in plans), 1)
            row = {"rate": rate, "correlation": name, "disagree": square, "fixed_n": size}
            row |= {"exact_n": exact(square / 2), "least_possible": least}
            row |= {"pairs_mean": float(used.mean()), "of_fixed_n": float(used.mean() / size)}
            rows.append(row | {"of_500": float(np.minimum(used, 500).mean() / 500)})
    return pd.DataFrame(rows)


def exact(lost: float) -> int | None:
    """Pairs for an exact binomial test on pairs lost to keep both errors; None where losses alone do not tell."""
    for pairs in range(1, 2000):
        most = int(binom.ppf(LEVELS.beta, pairs, LEVELS.margin)) - 1  # as many may be lost in a PASS
        if most >= 0 and binom.sf(most, pairs, lost) <= LEVELS.alpha:
            return pairs
    return None


def orders(runs: int) -> pd.DataFrame:
    """False alarms on tasks that differ by 14 points either way and not in the mean, by the order of the pairs."""
    rows = []
    for order in ("losers first", "task by task", "shuffled", "rounds"):
        for rate in (0.7, 0.9):
            chunks = compared(f"{order} {rate}", runs, rate, 0.0, 0.0, APART, order)
            verdict, _ = decided(chunks, 1)
            failed = float((verdict < 0).mean())
            rows.append({"order": order, "rate": rate, "runs": runs, "false_fail": failed})
    return pd.DataFrame(rows)


def power(runs: int) -> pd.DataFrame:
    """How often either verdict is reached within 500 pairs, against the true drop."""
    rows = []
    for name, correlation in CORRELATIONS.items():
        for rate in (0.7, 0.9, 0.97):
            for drop in np.arange(16) / 100:
                seed = f"power {name} {rate} {drop}"
                verdict, pairs = decided(compared(seed, runs, rate, float(drop), correlation, 0.0, "rounds"), 1)
                row = {"correlation": name, "rate": rate, "drop": float(drop), "runs": runs}
                row |= {"fails": float((verdict < 0).mean()), "passes": float((verdict > 0).mean())}
                rows.append(row | {"pairs_mean": float(pairs.mean())})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, percent: tuple[str, ...]) -> str:
    """A table of numbers for people."""

    def cell(column: str, value: Any) -> str:
        if value is None or value != value:
            return ""
        if column in percent:
            return f"{value:.2%}" if column.startswith("false") else f"{value:.0%}"
        if column.startswith("pairs") or column == "exact_n":
            return f"{value:.0f}"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(c.replace("_", " ") for c in table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += [
        "| " + " | ".join(cell(*pair) for pair in row.items()) + " |" for _, row in table.astype(object).iterrows()
    ]
    return "\n".join(lines)


def report(tables: dict[str, pd.DataFrame]) -> str:
    """README.md: the tables, and how they came to be."""
    shares = ("false_fail", "false_fail_upper", "false_pass", "false_pass_upper", "passed", "inconclusive")
    shares = (*shares, "of_fixed_n", "of_500", "disagree")
    main = tables["calibration"]
    columns = ["rate", "correlation", "tasks_apart", "every", "false_fail", "false_fail_upper", "false_pass"]
    columns += ["false_pass_upper", "pairs_mean", "pairs_median", "inconclusive"]
    heads = {
        "calibration": "Success rates, at most 500 pairs (calibration.csv has 100 too)",
        "lengths": "Average lengths, chains of five, at most 500 pairs",
        "fixed": "Healthy candidates against a test of fixed size with the same errors",
        "order": "Ten tasks that differ by 14 points either way and not in the mean",
    }
    shown = {name: tables[name] for name in heads}
    shown["calibration"] = main[main["cap"] == 500][columns]
    shown["lengths"] = shown["lengths"][shown["lengths"]["cap"] == 500].drop(columns=["cap", "passed"])
    parts = [
        "# Calibration of the gate's test",
        f"Made by `python benchmarks/calibration.py`: {int(main['runs'].max())} simulated comparisons a setting, "
        f"alpha {LEVELS.alpha:g}, beta {LEVELS.beta:g}, margin {LEVELS.margin:g}.",
        "False fails are of candidates as good as the baseline, false passes of such as are worse by exactly the "
        "margin; upper is Clopper and Pearson's one-sided 95 % limit. Every: pairs between looks; 10 is a round of one "
        "scene of each task. Correlated: scenes differ, with an intraclass correlation of 0.6 (0.2 for sub-tasks of "
        "chains). Tasks apart: half of the tasks gain so much and half lose it. Pairs are to a verdict, all of them "
        "where there is none. What follows from it is in [docs/gate-statistics.md](../../docs/gate-statistics.md).",
    ]
    for name, head in heads.items():
        parts += [f"## {head}", markdown(shown[name], shares)]
    parts += ["## Power", "At most 500 pairs; power.csv has the numbers.", "![power](power.svg)"]
    return "\n\n".join(parts) + "\n"


def made(quick: bool) -> dict[str, pd.DataFrame]:
    """All tables by name."""
    runs, few, rates = (400, 200, (0.5, 0.97)) if quick else (20_000, 2000, RATES)
    tables = {}
    for name, make in {
        "calibration": lambda: calibration(runs, rates),
        "lengths": lambda: lengths(few if quick else runs),
        "fixed": lambda: fixed(few, rates),
        "order": lambda: orders(few),
        "power": lambda: power(50 if quick else few),
    }.items():
        began = time.perf_counter()
        tables[name] = make()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return tables


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    parser.add_argument("--quick", action="store_true", help="a few hundred comparisons of a few settings")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = made(options.quick)
    for name, table in tables.items():
        table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    plot_power(tables["power"], LEVELS.margin, options.out)
    (options.out / "README.md").write_text(report(tables), encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
