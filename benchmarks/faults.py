"""Campaigns of faults: evalkit under kills, damage, hostile input and broken environments.

    python benchmarks/faults.py                        all campaigns in full, about half an hour on two cores
    python benchmarks/faults.py damage --count 50      one of them, smaller
    python benchmarks/faults.py --seed 2               other faults

Prints each fault that evalkit did not hold against, and a table by class: tried, held, skipped. Exits with 1 if one did
not hold. The faults and the rules of judgement are in `tests/support/faults/`.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
os.environ["PYTHONPATH"] = str(REPOSITORY)

from support.faults import damage, documents, environments, invocations, kills, servers  # noqa: E402
from support.faults.trials import Skip, Trial  # noqa: E402
from support.import_logs import lerobot  # noqa: E402
from support.runs import run  # noqa: E402

Counts = dict[str, Counter[str]]


def _invocations(seed: int, count: int, folder: Path) -> Iterator[Trial]:
    finished = run(folder / "run", checkpoint="oracle", episodes=None)
    lerobot(folder / "eval_info.json", {("libero_object", 0): [True, False]})
    return invocations.trials(seed, count, folder / "here", finished, folder / "eval_info.json")


def _damage(seed: int, count: int, folder: Path) -> Iterator[Trial]:
    finished = run(folder / "run", checkpoint="oracle-noisy:noise=1.5", episodes=None)
    return damage.trials(seed, count, folder / "here", finished)


def _environments(seed: int, count: int, folder: Path) -> Iterator[Trial]:
    finished = run(folder / "run", checkpoint="oracle", episodes=None)
    return environments.trials(seed, count, folder / "here", finished)


def _servers(seed: int, count: int, folder: Path) -> Iterator[Trial]:
    return servers.trials(seed, count)


CAMPAIGNS: dict[str, tuple[Callable[[int, int, Path], Iterator[Trial]], int]] = {
    "kills": (kills.trials, 220),
    "damage": (_damage, 200),
    "servers": (_servers, 400),
    "invocations": (_invocations, 1000),
    "documents": (documents.trials, 500),
    "environments": (_environments, 120),
}


def main() -> None:
    """Run the campaigns that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaigns", nargs="*", choices=[[], *CAMPAIGNS], help="default: all")
    parser.add_argument("--count", type=int, help="faults in each campaign")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at a time")
    given = parser.parse_args()
    chosen = given.campaigns or list(CAMPAIGNS)
    with ProcessPoolExecutor(given.jobs, max_tasks_per_child=1) as pool:
        results = pool.map(play, chosen, [given.seed] * len(chosen), [given.count] * len(chosen))
        totals = [counts for result in results for counts in result.items()]
    print("\n| class | tried | held | skipped |\n|---|---|---|---|")
    for kind, counts in totals:
        print(f"| {kind} | {counts['tried']} | {counts['held']} | {counts['skipped']} |")
    sys.exit(any(counts["tried"] != counts["held"] for _, counts in totals))


def play(campaign: str, seed: int, count: int | None) -> Counts:
    """Run one campaign in a process of its own; print what did not hold, and return the counts by class."""
    make, usual = CAMPAIGNS[campaign]
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a fault must not take the machine's memory
    found: Counts = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)  # some faults are another user's
        for trial in make(seed, count or usual, Path(folder)):
            counts = found.setdefault(trial.kind, Counter())
            try:
                problem = trial.run()
            except Skip as reason:
                counts["skipped"] += trial.faults
                print(f"skipped: {trial}: {reason}", flush=True)
                continue
            counts["tried"] += trial.faults
            counts["held"] += trial.faults * (problem is None)
            if problem:
                print(f"DID NOT HOLD: {trial}: {problem}", flush=True)
    return found


if __name__ == "__main__":
    main()
