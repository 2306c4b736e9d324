"""CALVIN's logs, written by ``eval_calvin/main.py``.

The official sequences are shuffled and dealt to the ranks, and each rank plays its share with several processes: "local
seq j" is the j-th to *finish*. So an outcome's sequence is known only up to the rank's share, and the names of its
sub-tasks are unknown. ``results.json`` has figures by sub-task, but it pairs the outcomes with sequences in another
order; they are not imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evalkit.errors import UsageError, unknown
from evalkit.files import parse_json
from evalkit.importers.result import (
    HOW_TO_COMPLETE,
    ImportedOutcome,
    ImportOptions,
    SourceFile,
    TaskOutcomes,
    add_outcome,
    format_ranges,
)
from evalkit.suite import Suite

SUMMARY = "results.json"
FOLDER: Final = re.compile(r"abcd|abc")  # calvin_abc, calvin_abcd
_BEGUN: Final = re.compile(r"Starting evaluation with rank=(\d+), world_size=(\d+), num_workers=\d+\n")
_SHARE: Final = re.compile(r"Rank (\d+): starting evaluation of (\d+) sequences\.")
_ENDED: Final = re.compile(
    r"Rank (\d+) finished local seq (\d+) with success=(\d+) \|((?: \d+/\d+: [\d.]+% \|)*) with avg_len=(\d+\.\d{3})"
)


def read_calvin(
    suite: Suite, logs: Sequence[SourceFile], options: ImportOptions
) -> tuple[list[TaskOutcomes], list[SourceFile]]:
    """Read the chains' outcomes, and the summary beside the logs.

    Raises:
        UsageError: the logs are contradictory or incomplete, or do not match the summary.
    """
    folder = logs[0].path.parent
    split = _split(suite, folder, options)
    chain = suite.chain or 0
    outcomes_by_rank: dict[tuple[int, int], tuple[ImportedOutcome, Path]] = {}
    shares: dict[int, int] = {}
    worlds: set[int] = set()
    for log in logs:
        rank, world, share = _head(log)
        worlds.add(world)
        if len(worlds) > 1:
            raise UsageError(f"{log.path}: world_size is {world}, but differs in the other logs: they are of two runs")
        if shares.setdefault(rank, share) != share:
            raise UsageError(f"{log.path}: rank {rank} has {share} sequences here and {shares[rank]} in another log")
        for number, outcome in enumerate(_outcomes(log, rank, chain)):
            add_outcome(outcomes_by_rank, (rank, number), outcome, log.path, f"rank {rank}, local seq {number}")
    world = worlds.pop()
    whole = _check_whole(folder, world, shares, outcomes_by_rank, options)
    sequences = sum(shares.values()) if set(shares) == set(range(world)) else suite.episodes
    outcomes = {(rank + world * number, 0): outcome for (rank, number), (outcome, _) in outcomes_by_rank.items()}
    if max([0, *(scene for scene, _ in outcomes)]) >= sequences or sequences > suite.scenes:
        raise UsageError(f"{folder}: more outcomes than the {min(sequences, suite.scenes)} sequences")
    summaries = [SourceFile.read(folder / SUMMARY)] if (folder / SUMMARY).is_file() else []
    for summary in summaries if whole else []:
        _check_summary(summary, list(outcomes.values()), chain)
    (task,) = suite.splits[split].tasks
    return [TaskOutcomes(split, task, sequences, 1, outcomes)], summaries


def _split(suite: Suite, folder: Path, options: ImportOptions) -> str:
    """Return the split, which no log names: from the options, or from the folder's name."""
    found = FOLDER.search(folder.resolve().name)
    split = options.split or (f"{found.group()}_d" if found else None)
    if split is None:
        raise UsageError(f"{folder}: no log names its split: pass --split {' or '.join(suite.splits)}")
    if split not in suite.splits:
        raise unknown("split", split, suite.splits)
    return split


def _head(log: SourceFile) -> tuple[int, int, int]:
    """Return (rank, number of ranks, sequences of this rank)."""
    begun, share = set(_BEGUN.findall(log.text)), set(_SHARE.findall(log.text))
    if len(begun) != 1 or len(share) != 1:
        raise UsageError(f"{log.path}: must state its rank and its number of sequences exactly once: is it truncated?")
    (rank, world), (of, count) = begun.pop(), share.pop()
    if rank != of or int(rank) >= int(world):
        raise UsageError(f"{log.path}: rank {rank} of {world} reports for rank {of}")
    return int(rank), int(world), int(count)


def _outcomes(log: SourceFile, rank: int, chain: int) -> list[ImportedOutcome]:
    """Return a rank's outcomes in the order they finished; its running figures must match."""
    lengths: list[int] = []
    for of, number, solved, rates, mean in _ENDED.findall(log.text):
        where = f"{log.path}: local seq {number}"
        if int(of) != rank:
            raise UsageError(f"{log.path}: a line of rank {of} in the log of rank {rank}")
        if int(solved) > chain:
            raise UsageError(f"{where}: success={solved}, but a chain has {chain} sub-tasks")
        if int(number) < len(lengths):
            outcomes_by_rank = {number: (ImportedOutcome(False, lengths[int(number)]), log.path)}
            add_outcome(
                outcomes_by_rank,
                number,
                ImportedOutcome(False, int(solved)),
                log.path,
                f"rank {rank}, local seq {number}",
            )
            continue
        if int(number) > len(lengths):
            raise UsageError(
                f"{where}: {format_ranges(range(len(lengths), int(number)))} is missing in the middle of the log"
            )
        lengths.append(int(solved))
        stated = [float(mean) * 20, *(float(rate) for rate in re.findall(r": ([\d.]+)%", rates))]
        computed = [20 * sum(lengths) / len(lengths)]
        computed += [100 * sum(length >= k for length in lengths) / len(lengths) for k in range(1, chain + 1)]
        if len(stated) != len(computed) or any(abs(a - b) > 0.051 for a, b in zip(stated, computed, strict=True)):
            raise UsageError(f"{where}: the log's running figures do not match its lines: one was changed or lost")
    return [ImportedOutcome(length == chain, length) for length in lengths]


def _check_whole(
    folder: Path,
    world: int,
    shares: Mapping[int, int],
    outcomes_by_rank: Mapping[tuple[int, int], Any],
    options: ImportOptions,
) -> bool:
    """Return True if every rank's share is complete.

    Raises:
        UsageError: a share is incomplete, and partial results were not allowed.
    """
    missing = [f"rank {rank} has no log" for rank in range(world) if rank not in shares]
    for rank, share in sorted(shares.items()):
        lost = [number for number in range(share) if (rank, number) not in outcomes_by_rank]
        missing += [f"rank {rank}: local seq {format_ranges(lost)} missing"] if lost else []
    if any(number >= shares[rank] for rank, number in outcomes_by_rank):
        raise UsageError(f"{folder}: a rank finished more sequences than it started: does a log hold two runs?")
    if missing and not options.allow_partial:
        raise UsageError(f"{folder}: {'; '.join(missing)}: {HOW_TO_COMPLETE}")
    return not missing


def _check_summary(summary: SourceFile, outcomes: Sequence[ImportedOutcome], chain: int) -> None:
    """Raise UsageError if ``results.json`` has other figures than the logs."""
    lengths = [outcome.solved or 0 for outcome in outcomes]
    shares = {str(k): sum(length >= k for length in lengths) / len(lengths) for k in range(1, chain + 1)}
    try:
        content: Any = parse_json(summary.text, strict=False)
        stated = content["null"] if "null" in content else content[next(iter(content))]
        figures = {"avg_seq_len": float(stated["avg_seq_len"])}
        figures |= {f"chain_sr.{k}": float(v) for k, v in stated["chain_sr"].items()}
        tasks = stated["task_info"].values()
        figures |= {"task_info.success": sum(int(t["success"]) for t in tasks)}
        figures |= {"task_info.total": sum(int(t["total"]) for t in tasks)}
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, OverflowError) as error:
        raise UsageError(f"{summary.path}: is damaged ({error!r}): get it again, or remove it") from error
    computed = {"avg_seq_len": sum(lengths) / len(lengths), **{f"chain_sr.{k}": v for k, v in shares.items()}}
    computed |= {"task_info.success": sum(lengths), "task_info.total": sum(min(n + 1, chain) for n in lengths)}
    for field, value in computed.items():
        if not abs(figures.get(field, -1) - value) <= 1e-6:
            raise UsageError(
                f"{summary.path}: {field}: {figures.get(field, 'nothing')} there and {value:g} in the logs: not "
                "from one evaluation"
            )
