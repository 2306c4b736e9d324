"""Pairs of episodes: which of them count as one observation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.made_up import made_up

from evalkit.analysis.pairs import pair_episodes, read_side


def test_scenes_of_two_tasks_of_a_split_that_ended_alike_are_two_observations(tmp_path: Path) -> None:
    tasks = ["reach-v3", "door-open-v3"]
    sides = []
    for name in ("a", "b"):
        run = made_up(tmp_path / name, "metaworld", lambda e: True, tasks=tasks, episodes=3)
        side = read_side(run)
        sides.append(replace(side, scored=side.scored.assign(digest=None)))
    pairs = pair_episodes(*sides)
    assert len(pairs) == 6 and pairs["distinct"].all()
