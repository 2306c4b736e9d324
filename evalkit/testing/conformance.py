"""The adapter contract, as tests.

Third parties import this and name their suite::

    from evalkit.testing import AdapterConformance

    class TestMySuite(AdapterConformance):
        suite = "my_suite"                       # a name, or the path of the suite's folder
        tasks = [("easy", "my-task")]            # a few (split, task) pairs to try

The adapter runs as in any run: in a worker process, in the suite's own environment, which must have been built
(``evalkit setup``). Each test's name says what it pins, and each failure says what is wrong with the adapter.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from evalkit.observation import ObservationSpec
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import Suite, load_suite
from evalkit.worker.wire import pack, unpack

_BAD_ACTIONS = {
    "nan": "with a NaN",
    "inf": "with an infinite number",
    "short": "with one number too few",
    "matrix": "that is a matrix",
    "high": "above the upper bound",
    "low": "below the lower bound",
}


class AdapterConformance:
    """Tests of the contract in :mod:`evalkit.adapter`. Subclass it and set ``suite`` and ``tasks``; pytest runs them.

    Attributes:
        suite: the suite's name or folder.
        tasks: (split, task) pairs to try; most tests use the first.
        steps: control steps of random actions per trial.
        renders: True to test images; set it to False on a machine without GL.
        cameras: the cameras to test, for suites whose robots have their own; all of the suite's if empty.
    """

    suite: ClassVar[str]
    tasks: ClassVar[list[tuple[str, str]]]
    steps: ClassVar[int] = 40
    renders: ClassVar[bool] = True
    cameras: ClassVar[tuple[str, ...]] = ()
    _played: ClassVar[dict[str, list[dict[str, Any]]]]

    def __init_subclass__(cls) -> None:
        """Start without trials; tests that need the same one share it, because simulators start and render slowly."""
        super().__init_subclass__()
        cls._played = {}

    def test_reset_is_deterministic_and_reuse_equals_fresh(self) -> None:
        """Play one episode fresh, after others in the same process, and twice: equal bit for bit."""
        for task in self.tasks:
            fresh, again = self._play([(task, 1, 7), (task, 1, 7)])
            reused = self._play([(task, 0, 3), (self.tasks[-1], 1, 5), (task, 1, 7)])
            assert reused[-1]["states"] == fresh["states"], (
                f"{_name(task)}: an episode depends on the episodes before it: {_first(fresh, reused[-1])}; "
                "reset must restore everything"
            )
            assert again == fresh, (
                f"{_name(task)}: the same episode played twice differs: {_first(fresh, again)}; "
                "seed every random number in reset"
            )

    def test_rendering_changes_no_physics(self) -> None:
        """Render never, at some steps and at every step: the states are equal."""
        self._skip_without_images()
        never = self._play([(self.tasks[0], 0, 1)])[0]
        for every in (1, 10):
            rendered = self._play([(self.tasks[0], 0, 1)], self._everything(), observe_every=every)[0]
            assert rendered["states"] == never["states"], (
                f"{_name(self.tasks[0])}: rendering at every {_ordinal(every)} step changes the physics: "
                f"{_first(never, rendered)}; observe must change no state"
            )

    def test_rendering_now_and_then_shows_what_rendering_always_shows(self) -> None:
        """Compare a step's images and state vectors with different other steps rendered: equal."""
        self._skip_without_images()
        always = self._play([(self.tasks[0], 0, 1)], self._everything(), observe_every=1)[0]["observations"]
        seldom = self._play([(self.tasks[0], 0, 1)], self._everything(), observe_every=10)[0]["observations"]
        assert len(always) > 10, f"{_name(self.tasks[0])}: over after {len(always)} steps; name a longer task first"
        assert seldom == always[::10], (
            f"{_name(self.tasks[0])}: observations every 10 steps are not those of the same steps observed every step; "
            "an observation must not depend on earlier ones"
        )

    def test_observations_match_the_suite(self) -> None:
        """Check that an observation has the requested content, with the shapes and types of suite.yaml."""
        suite = self._suite()
        shapes = self._play([(self.tasks[0], 0, 1)], self._everything())[0]["shapes"]
        cameras = {name: suite.cameras[name] for name in self._everything().cameras}
        images = {name: ["uint8", camera.height, camera.width, 3] for name, camera in cameras.items()}
        assert shapes["images"] == images, (
            f"images are {shapes['images']}; suite.yaml and the observation spec ask for {images}"
        )
        state = {name: ["float64", suite.state[name].size] for name in suite.state}
        assert shapes["state"] == state, (
            f"state vectors are {shapes['state']}; suite.yaml and the observation spec ask for {state}"
        )
        task, instruction = suite.splits[self.tasks[0][0]].tasks[self.tasks[0][1]], shapes["instruction"]
        assert instruction, f"{_name(self.tasks[0])}: the instruction is empty"
        assert suite.chain or instruction == task, (
            f"{_name(self.tasks[0])}: the instruction is {instruction!r}; suite.yaml and tasks.yaml say {task!r}"
        )

    def test_nothing_is_looked_at_that_nobody_needs(self) -> None:
        """Check that a policy without cameras and state vectors gets the instruction alone."""
        shapes = self._play([(self.tasks[0], 0, 1)])[0]["shapes"]
        extra = [*shapes["images"], *shapes["state"]]
        assert not extra, f"an observation contains {', '.join(extra)}, which the observation spec does not name"

    def test_bad_actions_are_refused_and_execute_nothing(self) -> None:
        """Check that NaN, infinity, a wrong shape and values out of bounds raise ActionError and change no state."""
        refused = self._trial({"kind": "refusals", "task": list(self.tasks[0])})
        bounded = self._suite().action.out_of_bounds != "execute"
        for kind, words in _BAD_ACTIONS.items():
            expected = bounded or kind not in ("high", "low")
            assert refused[kind] == expected, (
                f"an action {words} must raise ActionError before anything is executed (call setup.action_space.check)"
                if expected
                else f"an action {words} is refused, and suite.yaml says out_of_bounds: execute"
            )

    def test_scenes_differ(self) -> None:
        """Check that two scenes of a task begin in different states."""
        first = self._play([(self.tasks[0], 0, 1)])[0]
        second = self._play([(self.tasks[0], 1, 7), (self.tasks[0], 1, 7)])[0]
        assert first["states"][0] != second["states"][0], (
            f"{_name(self.tasks[0])}: scenes 0 and 1 begin in the same state; reset must use episode.scene, and state "
            "must contain what it changes"
        )

    def test_planning_changes_nothing_and_plans_what_closed_loop_does(self) -> None:
        """Check that a plan of ten steps equals ten plans of one, and that planning leaves no trace."""
        known = [task for task in self.tasks if task[0] in self._suite().oracle]
        if not known:
            pytest.skip("the suite's oracle knows no task here")
        for task in known:
            found = self._trial({"kind": "oracle", "task": list(task), "steps": self.steps})
            assert found["planned"] == found["closed_loop"], (
                f"{_name(task)}: plans of ten steps lead elsewhere than plans of one, from step "
                f"{_step(found['planned'], found['closed_loop'])}; plan in closed loop"
            )
            assert found["with_plans"] == found["without_plans"], (
                f"{_name(task)}: calling plan changes the simulator, from step "
                f"{_step(found['with_plans'], found['without_plans'])}; plan must restore the state bit for bit"
            )
            assert found["continued"], (
                f"{_name(task)}: plan(steps, committed) must begin with committed and continue from where that leads"
            )

    def _skip_without_images(self) -> None:
        if not (self.renders and self._suite().cameras):
            pytest.skip("no images here")

    def _suite(self) -> Suite:
        return load_suite(self.suite)

    def _everything(self) -> ObservationSpec:
        """Return the cameras to test and every state vector."""
        cameras = (self.cameras or tuple(self._suite().cameras)) if self.renders else ()
        return ObservationSpec(cameras, tuple(self._suite().state))

    def _play(
        self,
        episodes: list[tuple[tuple[str, str], int, int]],
        observation_spec: ObservationSpec | None = None,
        observe_every: int = 1,
    ) -> list[dict[str, Any]]:
        """Play (task, scene, seed of the random actions) in one process; return digests of states and observations."""
        plan = [{"task": list(task), "scene": scene, "actions": seed} for task, scene, seed in episodes]
        observation_spec = observation_spec or ObservationSpec()
        trial = {"kind": "play", "episodes": plan, "steps": self.steps, "observe_every": observe_every}
        key = json.dumps([trial, observation_spec.to_dict()])
        if key not in self._played:
            self._played[key] = self._trial(trial, observation_spec)["episodes"]
        return self._played[key]

    def _trial(self, trial: dict[str, Any], observation_spec: ObservationSpec | None = None) -> dict[str, Any]:
        """Run one trial in a fresh process of the suite's environment; fail with its last line if it ends early."""
        observation_spec = observation_spec or ObservationSpec()
        installed = InstalledSuite.find(self.suite)
        environment = installed.environment
        setup = {
            "suite": installed.suite.to_message(),
            "observation_spec": observation_spec.to_dict(),
            "assets": str(installed.assets) if installed.assets else None,
            "sources": {name: str(checkout.folder) for name, checkout in installed.sources.items()},
        }
        result = subprocess.run(
            environment.command("worker.conformance"),
            input=pack({"folder": str(installed.suite.folder), "setup": setup, "trial": trial}),
            capture_output=True,
            env=environment.variables(installed.suite, renders=bool(observation_spec.cameras)),
        )
        log = result.stderr.decode(errors="replace")
        sys.stderr.write(log)
        if result.returncode:
            last = (log.strip().splitlines() or ["nothing was printed"])[-1]
            pytest.fail(
                f"the worker process of {installed.suite.name} {_ended(result.returncode)}; its last line: {last}"
            )
        return unpack(result.stdout)


def _name(task: tuple[str, str]) -> str:
    return "/".join(task)


def _ordinal(number: int) -> str:
    return {1: "single"}.get(number, f"{number}th")


def _step(first: list[str], second: list[str]) -> int:
    """Return the first step after which two lists of state digests differ."""
    equal = [a == b for a, b in zip(first, second, strict=False)]
    return equal.index(False) if False in equal else len(equal)


def _first(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return where two played episodes begin to differ."""
    if one["states"] == other["states"]:
        return "the observations differ, the states do not"
    step = _step(one["states"], other["states"])
    return f"the state differs from step {step}" if step else "the state differs right after reset"


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
