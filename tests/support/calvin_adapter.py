"""Drives CALVIN's adapter directly, in its own environment. Pickles on standard input and output."""

from __future__ import annotations

import importlib.util
import os
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def follow(adapter: Any, question: dict[str, Any]) -> dict[str, Any]:
    """One chain by the scripted oracle, with noise; one action at a time."""
    from evalkit.episode import Episode
    from evalkit.observation import ObservationSpec

    noise = np.random.default_rng(0)
    adapter.reset(Episode("calvin", "abcd_d", "chain", question["scene"], 0))
    actions, told, over = [], [], False
    while not over:
        told.append(adapter.observe(ObservationSpec()).instruction)
        plan = adapter.plan(1)[0]
        plan[:6] += question["noise"] * noise.normal(size=6).astype(np.float32)
        over = adapter.step(plan, observe=False)
        actions.append(plan)
    end = adapter._simulator._env.get_state_obs()
    return {
        "actions": np.stack(actions),
        "told": told,
        "subtasks": list(adapter.outcome().subtasks),
        "end": end["robot_obs"].tobytes() + end["scene_obs"].tobytes(),
    }


def cost(adapter: Any, question: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds per control step, looking every so many steps."""
    from evalkit.episode import Episode

    observation_spec = adapter._setup.observation_spec
    adapter.reset(Episode("calvin", "abcd_d", "chain", 0, 0))
    action = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
    adapter.observe(observation_spec)
    began = time.process_time()
    for step in range(question["steps"]):
        if step % question["every"] == 0:
            adapter.observe(observation_spec)
        adapter.step(action, observe=False)
    return {"seconds": (time.process_time() - began) / question["steps"]}


def growth(adapter: Any, question: dict[str, Any]) -> dict[str, Any]:
    """Resident memory (MiB) after the first episodes and after more of them."""
    from evalkit.episode import Episode

    observation_spec = adapter._setup.observation_spec
    sizes = []
    for number in range(question["episodes"]):
        adapter.reset(Episode("calvin", "abcd_d", "chain", number, 0))
        adapter.observe(observation_spec)
        adapter.step(np.zeros(7, np.float32), observe=False)
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)
    return {"sizes": sizes}


def outside(adapter: Any, question: dict[str, Any]) -> dict[str, Any]:
    """What a scene that does not exist is answered with."""
    from evalkit.adapter import SimulatorError
    from evalkit.episode import Episode

    answers = []
    for scene in question["scenes"]:
        try:
            adapter.reset(Episode("calvin", "abcd_d", "chain", scene, 0))
        except SimulatorError as error:
            answers.append(str(error))
    return {"answers": answers}


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = pickle.load(sys.stdin.buffer)
    spec = importlib.util.spec_from_file_location("bootstrap", question["bootstrap"])
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap._make_evalkit_importable()

    from evalkit.adapter import Setup
    from evalkit.observation import ObservationSpec
    from evalkit.worker.loop import load_adapter_module

    setup = Setup(question["suite"], ObservationSpec(*question["observation_spec"], 0), None, None, question["sources"])
    adapter = load_adapter_module(Path(question["folder"])).build(setup)
    found = {"follow": follow, "cost": cost, "growth": growth, "outside": outside}[question["kind"]](adapter, question)
    adapter.close()
    answers.write(pickle.dumps(found))
    answers.close()


if __name__ == "__main__":
    main()
