"""The official 1000 evaluation sequences: an initial condition and five instructions in a row.

For each of 192 initial conditions, upstream draws five sub-tasks at a time until it has enough possible sequences:
seven million draws, most of a minute on many cores. Here the same random numbers are drawn in batches, and most draws
are rejected by table. The result is upstream's list, entry for entry; its digest is part of the protocol.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import Setup, SimulatorError
from evalkit.locations import home_folder

from .upstream import Checkouts, sequence_rules

LENGTH = 5
BATCH = 2048
PLACES = ("table", "slider_right", "slider_left")
CONDITIONS = {  # the parts of an initial condition and their values, in upstream's order
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    "red_block": PLACES,
    "blue_block": PLACES,
    "pink_block": PLACES,
    "grasped": (0,),
}

Condition = dict[str, Any]
Chain = tuple[Condition, tuple[str, ...]]  # an initial condition, and the names of the sub-tasks in a row
Rules = tuple[Mapping[str, Any], Mapping[str, int]]


def of(setup: Setup, checkouts: Checkouts) -> list[Chain]:
    """Return the suite's sequences in the order of its scenes, cached in evalkit's home folder."""
    digest = str(setup.settings["sequences_sha256"])
    return official(partial(sequence_rules, checkouts), int(setup.suite["scenes"]), digest, home_folder() / "cache")


def official(rules: Callable[[], Rules], count: int, digest: str, cache: Path | None) -> list[Chain]:
    """Return the sequences from ``cache``; generate them (seconds) and write them there if they are missing.

    Args:
        rules: reads upstream's sub-tasks and their categories.
        count: number of sequences in the protocol. A smaller number gives another list, not the beginning of this one.
        digest: the list's required SHA-256.
        cache: a writable folder, or None.

    Raises:
        SimulatorError: the generated list has another digest.
    """
    file = cache / f"calvin-sequences-{digest[:16]}.json" if cache else None
    if file is not None:
        with contextlib.suppress(OSError, ValueError):
            kept = [(condition, tuple(names)) for condition, names in json.loads(file.read_text(encoding="utf-8"))]
            if digest_of(kept) == digest:
                return kept
    chains = generate(*rules(), count)
    if digest_of(chains) != digest:
        raise SimulatorError(
            f"the {count} sequences generated here have SHA-256 {digest_of(chains)[:12]}, the official ones "
            f"{digest[:12]}: is the checkout of calvin complete, and numpy the pinned one?"
        )
    if file is not None:
        with contextlib.suppress(OSError):  # a cache is optional
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            draft.write_text(json.dumps(chains), encoding="utf-8")
            draft.replace(file)
    return chains


def digest_of(chains: Sequence[Chain]) -> str:
    """Return the SHA-256 of the list as written by Python's ``json.dumps``."""
    return hashlib.sha256(json.dumps(chains).encode()).hexdigest()


def generate(tasks: Mapping[str, Any], categories: Mapping[str, int], count: int) -> list[Chain]:
    """Return the list of upstream's ``get_sequences(count)``, computed faster."""
    conditions = initial_conditions()
    shares = [len(share) for share in np.array_split(range(count), len(conditions))]
    possible = _Possible(tasks, categories)
    chains = [
        (condition, names)
        for seed, (condition, share) in enumerate(zip(conditions, shares, strict=True))
        for names in possible.draw(condition, share, seed)
    ]
    np.random.RandomState(0).shuffle(chains)  # type: ignore[arg-type]  # a list, in place
    return chains


def initial_conditions() -> list[Condition]:
    """Return the 192 initial conditions: one or two blocks on the table, no two in the same half of the cabinet."""
    everything = itertools.product(*CONDITIONS.values())
    admitted = (v for v in everything if v.count("table") in (1, 2) and all(v.count(p) < 2 for p in PLACES[1:]))
    return [dict(zip(CONDITIONS, values, strict=True)) for values in admitted]


class _Possible:
    """A sampler of possible sequences: each sub-task can follow the one before, and all five categories differ."""

    def __init__(self, tasks: Mapping[str, Any], categories: Mapping[str, int]) -> None:
        self._names = list(tasks)
        self._variants = [tasks[name] for name in self._names]
        self._categories = np.array([categories[name] for name in self._names])
        self._known: dict[tuple[tuple[Any, ...], int], Condition | None] = {}

    def draw(self, condition: Condition, count: int, seed: int) -> list[tuple[str, ...]]:
        """Return the first ``count`` possible draws under a seed, as names."""
        # Generator.permuted consumes the same random numbers as that many calls of the legacy permutation.
        bits = np.random.MT19937()
        bits.state = np.random.RandomState(seed).get_state(legacy=False)
        generator = np.random.Generator(bits)
        deck = np.broadcast_to(np.arange(len(self._names), dtype=np.uint8), (BATCH, len(self._names)))
        begins = self._first_two(condition)
        found: list[tuple[str, ...]] = []
        while len(found) < count:
            drawn = generator.permuted(deck, axis=1)[:, :LENGTH]
            drawn = drawn[begins[drawn[:, 0], drawn[:, 1]]]
            sorts = np.sort(self._categories[drawn], axis=1)
            drawn = drawn[(sorts[:, 1:] != sorts[:, :-1]).all(axis=1)]
            possible = (tuple(row) for row in drawn.tolist() if self._leads_on(condition, row))
            found += [tuple(self._names[task] for task in row) for row in possible]
        return found[:count]

    def _first_two(self, condition: Condition) -> np.ndarray:
        """Return the pairs of tasks that can begin a sequence, (N, N) bool."""
        every = range(len(self._names))
        return np.array([[self._leads_on(condition, (first, second)) for second in every] for first in every])

    def _leads_on(self, condition: Condition, tasks: Sequence[int]) -> bool:
        now: Condition | None = condition
        for task in tasks:
            if now is None:
                return False
            now = self._after(now, task)
        return now is not None

    def _after(self, condition: Condition, task: int) -> Condition | None:
        """Return the condition after a task, or None unless there is exactly one way to do it."""
        key = (tuple(condition.values()), task)
        if key not in self._known:
            ways = [v["effect"] for v in self._variants[task] if _holds(v["condition"], condition)]
            self._known[key] = {**condition, **ways[0]} if len(ways) == 1 else None
        return self._known[key]


def _holds(wanted: Mapping[str, Any], condition: Condition) -> bool:
    return all(condition[k] in v if isinstance(v, list) else condition[k] == v for k, v in wanted.items())
