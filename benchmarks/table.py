"""Duration of `evalkit table` for a run of many episodes, and of each of its phases.

    python benchmarks/table.py                                   # a million episodes of Meta-World's shape
    python benchmarks/table.py --shape calvin --episodes 1000000

The run is synthetic: its plan is the suite's, with enough repeats for the number of episodes, and its outcomes are
seeded draws. A record has the same fields, of the same lengths, as those of `evalkit run`. The phases are timed in this
process, the command in a process of its own, from start to end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evalkit.records.folder import RunFolder
from evalkit.records.manifest import Manifest, Plan, PlannedTask, fingerprint, read_manifest
from evalkit.suite import Suite, load_suite

SPLITS = {"metaworld": ["easy", "medium", "hard", "very_hard"], "calvin": ["abcd_d"]}
SUBTASKS = [f"subtask_number_{number}_of_34" for number in range(34)]


def main() -> None:
    """Write the run, or take the one in --out, and print seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SPLITS, default="metaworld", help="the suite whose records are imitated")
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--errors", type=float, default=0.001, help="share of episodes that end in an error")
    parser.add_argument("--out", type=Path, help="keep the run in this folder, or use the run that it holds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch) / "run"
        journal = RunFolder(folder).journal
        if not journal.exists():
            folder.mkdir(parents=True, exist_ok=True)
            timed("writing the run", lambda: write(folder, options.shape, options.episodes, options.errors))
        print(f"{journal.stat().st_size / 1e6:.0f} MB of journal")
        phases(folder)
        command = [sys.executable, "-m", "evalkit", "table", str(folder), "--format", "json"]
        timed("evalkit table, process start included", lambda: subprocess.run(command, check=True, capture_output=True))


def phases(folder: Path) -> None:
    """Time the parts of making a table."""
    timed("importing", lambda: __import__("evalkit.analysis.summary", fromlist=["summarize"]))
    from evalkit.analysis.rows import compute_rows
    from evalkit.analysis.summary import mean_execution_stats, read_frame

    manifest = timed("the manifest", lambda: read_manifest(folder))
    frame = timed("journal to frame", lambda: read_frame(folder, False, manifest))
    timed("frame to rows", lambda: compute_rows(manifest, frame))
    timed("execution statistics", lambda: mean_execution_stats(manifest, frame))


def timed(label: str, action: Callable[[], Any]) -> Any:
    """Run the action, print its duration and return its result."""
    began = time.perf_counter()
    result = action()
    print(f"{time.perf_counter() - began:7.2f} s  {label}", flush=True)
    return result


def write(folder: Path, shape: str, episodes: int, errors: float) -> None:
    """Write the run: its manifest, and a journal of ``episodes`` lines."""
    suite = load_suite(shape)
    tasks = [(split, task) for split in SPLITS[shape] for task in suite.splits[split].tasks]
    scenes = max(1, min(suite.scenes, episodes // len(tasks)))
    repeats = max(1, episodes // (len(tasks) * scenes))
    plan = Plan(
        tasks=[PlannedTask(split=split, task=task, scenes=scenes, repeats=repeats) for split, task in tasks],
        seed=suite.seed,
    )
    Manifest(
        fingerprint=fingerprint(suite, {}, {}),
        checkpoint={"id": "made-up"},
        execution={"name": "sync", "horizon": 10},
        plan=plan,
        code={},
        suite=suite.to_message(),
    ).write(folder)
    with RunFolder(folder).journal.open("w", encoding="utf-8") as out:
        out.writelines(lines(suite, plan, errors))


def lines(suite: Suite, plan: Plan, errors: float) -> Iterator[str]:
    """Yield the journal's lines; every third repeat has the digest of the one before it."""
    rng = random.Random(0)
    digest = ""
    for number, episode in enumerate(plan.episodes(suite.name)):
        failed = rng.random() < errors
        subtasks = [] if failed or not suite.chain else chain(rng, episode.scene, suite.chain)
        success = None if failed else all(ok for _, ok in subtasks) if suite.chain else rng.random() < 0.8
        if episode.repeat % 3 != 2:
            digest = hashlib.sha256(str(number).encode()).hexdigest()
        fields = {
            "id": episode.id,
            "episode": vars(episode),
            "success": success,
            "steps": rng.randint(20, 500),
            "inferences": rng.randint(2, 50),
            "clipped_steps": 0,
            "metrics": {},
            "subtasks": subtasks,
            "execution_stats": {} if failed else execution_stats(rng),
            "timeline": None,
            "digest": None if failed else digest,
            "error": {"kind": "crash", "message": "the simulator ended"} if failed else None,
            "host": {
                "worker": 1,
                "attempts": 1,
                "wall_s": 3.0371,
                "policy_s": 0.0118,
                "finished": "2026-01-01T00:00:00Z",
            },
        }
        yield json.dumps(fields, separators=(",", ":")) + "\n"


def chain(rng: random.Random, scene: int, length: int) -> list[tuple[str, bool]]:
    """Return the sub-tasks of a scene up to the first that was not solved."""
    names = random.Random(scene).sample(SUBTASKS, length)
    solved = next((place for place in range(length) if rng.random() > 0.95), length)
    return [(name, place < solved) for place, name in enumerate(names[: solved + 1])]


def execution_stats(rng: random.Random) -> dict[str, float]:
    """Return numbers like those of :meth:`evalkit.worker.trace.Trace.execution_stats`."""
    return {
        "idle_steps": 0,
        "action_age_mean": 3.3,
        "action_age_max": 9,
        "switches": 12,
        "chunk_jump_position": round(rng.random(), 6),
        "chunk_jump_gripper": round(rng.random(), 6),
        "gripper_reversals": rng.randint(0, 9),
    }


if __name__ == "__main__":
    main()
