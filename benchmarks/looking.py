"""Measure the rendering cost: control steps per second by the interval between observations.

Every policy executes uniformly random actions in the same episodes. Every camera of the suite is rendered at each
observation, except for the policy that never observes:

    python benchmarks/looking.py libero --split object --task 0
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from evalkit import RunOptions, Silent, play
from evalkit.records.journal import read_journal


def rate(suite: str, split: str, task: str, episodes: int, horizon: int, cameras: str) -> float:
    """Return the control steps per second of one worker, resets included."""
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(
            suite,
            checkpoint=f"random:chunk=10,cameras={cameras}",
            splits=[split],
            tasks=[task],
            episodes=episodes,
            horizon=horizon,
            workers=1,
            out=Path(folder) / "run",
        )
        records = list(read_journal(play(options, Silent())).values())
    later = [r for r in records if r.episode.scene > 0]  # the first episode builds the simulator
    return sum(r.steps for r in later) / sum(r.host["wall_s"] for r in later)


def main() -> None:
    """Print the rates and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("--split", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--episodes", type=int, default=2, help="beyond the first, which builds the simulator")
    given = parser.parse_args()
    where = (given.suite, given.split, given.task, given.episodes + 1)
    each = rate(*where, horizon=1, cameras="all")
    print(f"observes every step       {each:8.1f} control steps/s    1.0")
    for name, horizon, cameras in (("observes every 10th step", 10, "all"), ("never observes", 10, "none")):
        now = rate(*where, horizon=horizon, cameras=cameras)
        print(f"{name:<25} {now:8.1f} control steps/s {now / each:6.1f}")


if __name__ == "__main__":
    main()
