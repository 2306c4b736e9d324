"""Meta-World's 50 fixed placements of a task, equal to ``MT1(task, seed).train_tasks`` and computed four times as fast.

``MT1`` builds a second environment and lets the arm settle (50 control steps, twice) after each of 50 resets, only to
read the random vector that the reset drew. The vectors depend on the seed and on rejection tests among themselves, not
on the arm's pose, so this module skips the settling. A test compares all 50 tasks with ``MT1``, bit for bit.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np


def fixed_placements(env: Any, task: str, seed: int, count: int = 50) -> list[Any]:
    """Return the task's placements in the benchmark's order, for ``env.set_task``.

    Args:
        env: a fresh Meta-World environment of ``task``; usable as a fresh one afterwards.
        task: the task's name, e.g. ``"assembly-v3"``.
        seed: the benchmark's seed.
        count: number of placements, from the first; the benchmark has 50.
    """
    from metaworld.env_dict import ML1_ARGS_KWARGS
    from metaworld.types import Task

    variant = {k: v for k, v in ML1_ARGS_KWARGS[task]["kwargs"].items() if k != "task_id"}
    env._freeze_rand_vec = False
    env._set_task_called = True
    env._set_task_inner(**variant)
    env._reset_hand = lambda steps=50: _pose_without_settling(env)
    random = np.random.get_state()
    np.random.seed(seed)
    try:
        drawn = []
        for _ in range(count):
            env.reset()
            drawn.append(np.array(env._last_rand_vec))
    finally:
        np.random.set_state(random)
        del env._reset_hand
    return [
        Task(task, pickle.dumps({**variant, "rand_vec": vector, "env_cls": type(env), "partially_observable": False}))
        for vector in drawn
    ]


def _pose_without_settling(env: Any) -> None:
    import mujoco

    mujoco.mj_forward(env.model, env.data)
    env.init_tcp = env.tcp_center
