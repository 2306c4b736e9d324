"""Runs in a process of its own: episodes of evalkit, with a policy that keeps its requests as the authors' client does.

Of its own because numpy takes the processor's kernels from its environment once. Standard input: a pickle of a
question. Standard output: a pickle of one entry per episode, and of the chunks by seed.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import evalkit
from evalkit.policies.xiaomi_robotics_0.requests import RobotPreset, presets
from evalkit.policy import Request, Spec
from evalkit.records.journal import read_journal
from evalkit.suite import Suite, load_suite
from support.released_loops import STEPS, described, drawn


class Recording:
    """A policy that draws its chunks from the seeds of its requests, or takes them from the suite's oracle."""

    def __init__(self, suite: Suite, preset: RobotPreset, robot: str, oracle: bool) -> None:
        self._suite, self._preset, self._robot = suite, preset, robot
        steps = STEPS[suite.name]
        self.spec = Spec(replace(preset.observation_spec, oracle_steps=steps if oracle else 0), steps, {})
        self.requests: dict[Any, list[dict[str, Any]]] = {}
        self.answers: dict[int, np.ndarray] = {}

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return [self._act(request) for request in requests]

    def close(self) -> None:
        pass

    def _act(self, request: Request) -> np.ndarray:
        made = self._preset.build_request(request.observation, self._robot)
        views = dict(zip(("base", "wrist_left"), made.images, strict=False))
        fields = {"task_id": self._robot, "language": made.prompt, "state": made.state, "seed": made.seed, **views}
        self.requests.setdefault(request.episode, []).append(described(fields))
        plan = request.observation.oracle_plan
        chunk = drawn(self._suite.name, made.seed) if plan is None else self._preset.to_model_actions(plan)
        self.answers[made.seed] = chunk
        return self._preset.to_suite_actions(chunk)


def hurried(suite: Suite, max_steps: int | None) -> Suite:
    """The suite with one attempt at each scene, and, if wanted, with shorter episodes (CALVIN's: of sub-tasks)."""
    changes: dict[str, Any] = {"repeats": 1} | ({"max_steps": max_steps} if max_steps else {})
    if max_steps and suite.chain:
        changes["max_steps"] = max_steps * suite.chain
        suite = suite.model_copy(update={"adapter": {**suite.adapter, "subtask_steps": max_steps}})
    return suite.model_copy(update={"splits": {n: s.model_copy(update=changes) for n, s in suite.splits.items()}})


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = pickle.load(sys.stdin.buffer)
    suite = hurried(load_suite(question["suite"]), question["max_steps"])
    preset = presets()[question["preset"]]
    episodes = []
    policy = Recording(suite, preset, question["robot"], question["oracle"])
    for number, (split, task, scenes) in enumerate(question["tasks"]):
        out = Path(question["out"]) / str(number)
        evalkit.evaluate(policy, suite=suite, splits=[split], tasks=[task], episodes=scenes, workers=1, out=out)
        for record in sorted(read_journal(out).values(), key=lambda record: record.episode.scene):
            assert record.error is None, record.error
            solved = sum(done for _, done in record.subtasks) if suite.chain else record.success
            entry = {"requests": policy.requests[record.episode], "success": solved, "steps": record.steps}
            episodes.append({"episode": record.episode.to_dict(), **entry})
    answers.write(pickle.dumps({"episodes": episodes, "answers": policy.answers, "suite": suite.to_message()}))
    answers.close()


if __name__ == "__main__":
    main()
