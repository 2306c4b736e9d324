"""CALVIN's logs, as ``eval_calvin/main.py`` writes them.

The official sequences are shuffled and dealt to the ranks, and each rank plays its share with several processes:
"local seq j" is the j-th to *finish*. So the sequence of an outcome is known up to the rank's share, and the names of
its sub-tasks are not known. (``results.json`` has figures by sub-task, which pair outcomes in the order they were dealt
with sequences that were not shuffled; they are not imported.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evalkit.errors import UsageError, unknown
from evalkit.importers.result import WHOLE, ImportOptions, Outcome, Source, TaskOutcomes, add_outcome, format_ranges
from evalkit.suite import Suite

SUMMARY = "results.json"
FOLDER: Final = re.compile(r"abcd|abc")  # calvin_abc, calvin_abcd
_BEGUN: Final = re.compile(r"Starting evaluation with rank=(\d+), world_size=(\d+), num_workers=\d+\n")
_SHARE: Final = re.compile(r"Rank (\d+): starting evaluation of (\d+) sequences\.")
_ENDED: Final = re.compile(
    r"Rank (\d+) finished local seq (\d+) with success=(\d+) \|((?: \d+/\d+: [\d.]+% \|)*) with avg_len=(\d+\.\d{3})"
)


def read_calvin(suite: Suite, logs: Sequence[Source], asked: ImportOptions) -> tuple[list[TaskOutcomes], list[Source]]:
    """The chains' outcomes, and the summary beside the logs. Raises UsageError for what does not fit."""
    folder = logs[0].path.parent
    split = _split(suite, folder, asked)
    chain = suite.chain or 0
    kept: dict[tuple[int, int], tuple[Outcome, Path]] = {}
    shares: dict[int, int] = {}
    worlds: set[int] = set()
    for log in logs:
        rank, world, share = _head(log)
        worlds.add(world)
        if len(worlds) > 1:
            raise UsageError(f"{log.path}: world_size is {world}, and another in the other logs: they are of two runs")
        if shares.setdefault(rank, share) != share:
            raise UsageError(f"{log.path}: rank {rank} has {share} sequences here and {shares[rank]} in another log")
        for number, outcome in enumerate(_outcomes(log, rank, chain)):
            add_outcome(kept, (rank, number), outcome, log.path, f"rank {rank}, local seq {number}")
    world = worlds.pop()
    whole = _check_whole(folder, world, shares, kept, asked)
    sequences = sum(shares.values()) if set(shares) == set(range(world)) else suite.episodes
    outcomes = {(rank + world * number, 0): outcome for (rank, number), (outcome, _) in kept.items()}
    if max([0, *(scene for scene, _ in outcomes)]) >= sequences or sequences > suite.scenes:
        raise UsageError(f"{folder}: more than the {min(sequences, suite.scenes)} sequences there are")
    summaries = [Source.read(folder / SUMMARY)] if (folder / SUMMARY).is_file() else []
    for summary in summaries if whole else []:
        _check_summary(summary, list(outcomes.values()), chain)
    (task,) = suite.splits[split].tasks
    return [TaskOutcomes(split, task, sequences, 1, outcomes)], summaries


def _split(suite: Suite, folder: Path, asked: ImportOptions) -> str:
    """The split, which no log says: as asked, else as the folder is called."""
    found = FOLDER.search(folder.resolve().name)
    split = asked.split or (f"{found.group()}_d" if found else None)
    if split is None:
        raise UsageError(f"{folder}: no log says which split it is of: pass --split {' or '.join(suite.splits)}")
    if split not in suite.splits:
        raise unknown("split", split, suite.splits)
    return split


def _head(log: Source) -> tuple[int, int, int]:
    """(rank, number of ranks, sequences of this rank)."""
    begun, share = set(_BEGUN.findall(log.text)), set(_SHARE.findall(log.text))
    if len(begun) != 1 or len(share) != 1:
        raise UsageError(f"{log.path}: must say once which rank it is of and how many sequences: is it cut off?")
    (rank, world), (of, count) = begun.pop(), share.pop()
    if rank != of or int(rank) >= int(world):
        raise UsageError(f"{log.path}: rank {rank} of {world} reports for rank {of}")
    return int(rank), int(world), int(count)


def _outcomes(log: Source, rank: int, chain: int) -> list[Outcome]:
    """A rank's outcomes in the order they finished; its running figures must add up."""
    lengths: list[int] = []
    for of, number, solved, rates, mean in _ENDED.findall(log.text):
        where = f"{log.path}: local seq {number}"
        if int(of) != rank:
            raise UsageError(f"{log.path}: a line of rank {of} in the log of rank {rank}")
        if int(solved) > chain:
            raise UsageError(f"{where}: success={solved}, and a chain has {chain} sub-tasks")
        if int(number) < len(lengths):
            kept = {number: (Outcome(False, lengths[int(number)]), log.path)}
            add_outcome(kept, number, Outcome(False, int(solved)), log.path, f"rank {rank}, local seq {number}")
            continue
        if int(number) > len(lengths):
            raise UsageError(
                f"{where}: {format_ranges(range(len(lengths), int(number)))} is missing in the middle of the log"
            )
        lengths.append(int(solved))
        said = [float(mean) * 20, *(float(rate) for rate in re.findall(r": ([\d.]+)%", rates))]
        made = [20 * sum(lengths) / len(lengths)]
        made += [100 * sum(length >= k for length in lengths) / len(lengths) for k in range(1, chain + 1)]
        if len(said) != len(made) or any(abs(a - b) > 0.051 for a, b in zip(said, made, strict=True)):
            raise UsageError(f"{where}: the log's running figures are not those of its lines: one was changed or lost")
    return [Outcome(length == chain, length) for length in lengths]


def _check_whole(
    folder: Path, world: int, shares: Mapping[int, int], kept: Mapping[tuple[int, int], Any], asked: ImportOptions
) -> bool:
    """Whether every rank's share is there. Raises UsageError where it is not and that was not asked for."""
    missing = [f"rank {rank} has no log" for rank in range(world) if rank not in shares]
    for rank, share in sorted(shares.items()):
        lost = [number for number in range(share) if (rank, number) not in kept]
        missing += [f"rank {rank}: local seq {format_ranges(lost)} missing"] if lost else []
    if any(number >= shares[rank] for rank, number in kept):
        raise UsageError(f"{folder}: a rank finished more sequences than it began: are two runs in one log?")
    if missing and not asked.allow_partial:
        raise UsageError(f"{folder}: {'; '.join(missing)}: {WHOLE}")
    return not missing


def _check_summary(summary: Source, outcomes: Sequence[Outcome], chain: int) -> None:
    """Raises UsageError where ``results.json`` has other figures than the logs."""
    lengths = [outcome.solved or 0 for outcome in outcomes]
    shares = {str(k): sum(length >= k for length in lengths) / len(lengths) for k in range(1, chain + 1)}
    try:
        content: Any = json.loads(summary.text)
        said = content["null"] if "null" in content else content[next(iter(content))]
        figures = {"avg_seq_len": float(said["avg_seq_len"])}
        figures |= {f"chain_sr.{k}": float(v) for k, v in said["chain_sr"].items()}
        tasks = said["task_info"].values()
        figures |= {"task_info.success": sum(int(t["success"]) for t in tasks)}
        figures |= {"task_info.total": sum(int(t["total"]) for t in tasks)}
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UsageError(f"{summary.path}: is damaged ({error!r}): get it again, or remove it") from error
    made = {"avg_seq_len": sum(lengths) / len(lengths), **{f"chain_sr.{k}": v for k, v in shares.items()}}
    made |= {"task_info.success": sum(lengths), "task_info.total": sum(min(n + 1, chain) for n in lengths)}
    for field, value in made.items():
        if abs(figures.get(field, -1) - value) > 1e-6:
            raise UsageError(
                f"{summary.path}: {field}: {figures.get(field, 'nothing')} there and {value:g} in the logs: not of "
                "one evaluation"
            )
