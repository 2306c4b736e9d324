"""Small logs and result files of the shapes that others' harnesses write."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.importers.xiaomi_simpler import LISTS
from evalkit.suite import load_suite

NOISE = "Gym has been unmaintained since 2022\n[robosuite WARNING] No private macro file found! (__init__.py:7)\n"


def libero(folder: Path, tasks: Mapping[int, Sequence[bool]], split: str = "object") -> Path:
    """Logs of one suite, a task each, with the summary beside them; returns the folder."""
    folder = folder / f"libero_{split}"
    folder.mkdir(parents=True, exist_ok=True)
    instructions = list(load_suite("libero").splits[split].tasks.values())
    results = []
    for task, outcomes in tasks.items():
        lines = [f"INFO:root:Task suite: libero_{split}"]
        for number in range(1, len(outcomes) + 1):
            word, won = ("Success" if outcomes[number - 1] else "Failure"), sum(outcomes[:number])
            rate = f"Current Success Rate: {won / number:.2%} ({won}/{number})"
            lines.append(f"INFO:root:Task_id {task}: Episode {number}: {word} | {rate}")
        rate = sum(outcomes) / len(outcomes)
        lines.append(f"INFO:root:Task {task} Success Rate: {rate:.2%}")
        (folder / f"{task}_eval.log").write_text(NOISE + "\n".join(lines) + "\n")
        results.append({"task_id": task, "instruction": instructions[task], "success_rate": rate})
    mean = sum(sum(outcomes) / len(outcomes) for outcomes in tasks.values()) / len(tasks)
    totals = {"total_tasks": len(tasks), "overall_success_rate": mean}
    (folder / "merged_results.json").write_text(json.dumps({"individual_results": results, "summary": totals}))
    return folder


def whole_libero(folder: Path, split: str = "object") -> Path:
    """Logs of a whole suite, 50 episodes a task; the first has 37 successes, the others nothing else."""
    first = ([True, False, True, True] * 13)[:50]
    return libero(folder, {0: first, **{task: [True] * 50 for task in range(1, 10)}}, split)


def calvin(folder: Path, ranks: Sequence[Sequence[int]]) -> Path:
    """Logs of chains by rank, with the summary beside them; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "2026-01-01 00:00:00,000 - __main__ - INFO -"
    for rank, lengths in enumerate(ranks):
        lines = [f"{stamp} Starting evaluation with rank={rank}, world_size={len(ranks)}, num_workers=8"]
        lines += [f"{stamp} Rank {rank}: starting evaluation of {len(lengths)} sequences."]
        for number in range(len(lengths)):
            so_far = lengths[: number + 1]
            rates = " ".join(f"{k}/5: {100 * share:.1f}% |" for k, share in shares(so_far).items())
            mean = f"with avg_len={sum(so_far) / len(so_far):.3f}"
            lines += ["EGL device choice: -1 of 9."]
            lines += [
                f"{stamp} Rank {rank} finished local seq {number} with success={lengths[number]} | {rates} {mean}"
            ]
        lines += [f"{stamp} Rank {rank}: evaluation finished, got {len(lengths)} result entries."]
        (folder / f"rank_{rank}_eval.log").write_text(NOISE + "\n".join(lines) + "\n")
    every = [length for lengths in ranks for length in lengths]
    info = {"open_drawer": {"success": sum(every), "total": sum(min(length + 1, 5) for length in every)}}
    said = {"avg_seq_len": sum(every) / len(every), "chain_sr": shares(every), "task_info": info}
    (folder / "results.json").write_text(json.dumps({"null": said}))
    return folder


def shares(lengths: Sequence[int]) -> dict[int, float]:
    """The share of chains with k or more solved in a row, k from 1 to 5."""
    return {k: sum(length >= k for length in lengths) / len(lengths) for k in range(1, 6)}


def simpler(folder: Path, dataset: str, success: Callable[[int], bool], workers: int = 2) -> Path:
    """Logs of a whole list of episodes by worker, with the summary beside them; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [f"{setting}/{task}" for setting, task, count in LISTS[dataset] for _ in range(count)]
    counts: dict[str, list[int]] = {}
    for worker in range(workers):
        lines = [f"Running dataset: {dataset} with {workers} workers", f"Worker ID: {worker}"]
        for index in range(worker, len(entries), workers):
            won = success(index)
            times = "time elapsed: 1.00s, time remaining: 2.00s"
            lines += ["[svulkan2] [error] GLFW error: X11: Failed to open display"]
            lines += [
                f"[Worker {worker} / {workers}] {entries[index]} - {index}/{len(entries)}, success: {won}, {times}"
            ]
            count = counts.setdefault(entries[index], [0, 0])
            count[0], count[1] = count[0] + won, count[1] + 1
        (folder / f"{worker}_eval.log").write_text("\n".join(lines) + "\n")
    with (folder / "all_results.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["exp_name", "dataset_name", "task_suite_name", "success_episodes", "total_episodes", "success_rate"]
        )
        table.writerows(["debug", dataset, task, won, n, won / n] for task, (won, n) in counts.items())
    return folder


def vla_eval(
    path: Path, benchmark: str, params: Mapping[str, Any], tasks: Mapping[str, Sequence[dict[str, Any]]], **more: Any
) -> dict[str, Any]:
    """A result file; ``tasks`` has the episodes, ``more`` goes over the whole or (``config``) into it."""
    made = []
    for task, episodes in tasks.items():
        wins = [bool(e["metrics"]["success"]) for e in episodes]
        mean = round(sum(wins) / len(wins), 4) if wins else 0.0
        steps = sum(e.get("steps", 0) for e in episodes) / max(1, len(episodes))
        made.append({"task": task, "episodes": episodes, "num_episodes": len(episodes), "avg_steps": steps})
        made[-1]["mean_success"] = mean
    module = f"vla_eval.benchmarks.x.benchmark:{benchmark}"
    each = max((len(episodes) for episodes in tasks.values()), default=1)
    config = {"benchmark": module, "mode": "sync", "episodes_per_task": each, "params": dict(params)}
    content = {
        "benchmark": f"{benchmark}_x",
        "mode": "sync",
        "harness_version": "0.8.0",
        "created_at": "2026-01-01T00:00:00+00:00",
        "tasks": made,
        "server_info": {"model_server": "Pi05Server", "capabilities": {}},
        "metric_keys": {"success": "mean"},
        **{key: value for key, value in more.items() if key != "config"},
        "config": {**config, **more.get("config", {})},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
    return content


def episode(number: int, success: bool, **more: Any) -> dict[str, Any]:
    """One of its episodes."""
    metrics = {"success": success, **more.pop("metrics", {})}
    return {"episode_id": number, "metrics": metrics, "steps": 10 + number, "elapsed_sec": 1.5, **more}


def lerobot(path: Path, tasks: Mapping[tuple[str, int], Sequence[bool]]) -> dict[str, Any]:
    """An eval_info.json by (group, task_id)."""
    groups: dict[str, list[bool]] = {}
    per_task = []
    for (group, number), wins in tasks.items():
        groups.setdefault(group, []).extend(wins)
        rewards = [float(won) for won in wins]
        metrics = {"sum_rewards": rewards, "max_rewards": rewards, "successes": list(wins), "video_paths": []}
        per_task.append({"task_group": group, "task_id": number, "metrics": metrics})
    every = [won for wins in groups.values() for won in wins]
    content = {
        "per_task": per_task,
        "per_group": {group: _means(wins) for group, wins in groups.items()},
        "overall": {**_means(every), "eval_s": 12.5, "eval_ep_s": 0.5},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
    return content


def _means(wins: Sequence[bool]) -> dict[str, Any]:
    mean = sum(wins) / len(wins)
    return {"avg_sum_reward": mean, "avg_max_reward": mean, "pc_success": 100 * mean, "n_episodes": len(wins)}
