"""Rendering cost: control steps per second with observations at every step, at every 10th, and never.

The same random actions run through the same episodes, with every camera of the suite rendered at each observation::

    python benchmarks/rendering.py libero --split object --task 0
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
    parser.add_argument("--episodes", type=int, default=2, help="episodes after the first, which builds the simulator")
    options = parser.parse_args()
    where = (options.suite, options.split, options.task, options.episodes + 1)
    each = rate(*where, horizon=1, cameras="all")
    print(f"every step                {each:8.1f} control steps/s    1.0")
    for name, horizon, cameras in (("every 10th step", 10, "all"), ("never", 10, "none")):
        now = rate(*where, horizon=horizon, cameras=cameras)
        print(f"{name:<25} {now:8.1f} control steps/s {now / each:6.1f}")


if __name__ == "__main__":
    main()
