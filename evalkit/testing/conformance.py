"""What an adapter must do, as tests.

Third parties import this and hand it their suite::

    from evalkit.testing import AdapterConformance

    class TestMySuite(AdapterConformance):
        suite = "my_suite"                       # a name, or the path of the suite's folder
        tasks = [("easy", "my-task")]            # a few (split, task) pairs to try

The adapter runs where it always runs: in a worker process, in the suite's own environment, which must have been built
(``evalkit setup``). Each test says in its name what it pins.
"""

from __future__ import annotations

import subprocess
from typing import Any, ClassVar

import pytest

from evalkit.locations import package_folder
from evalkit.observation import ObservationSpec
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import Suite, load_suite
from evalkit.worker.wire import pack, unpack


class AdapterConformance:
    """Tests of the contract in :mod:`evalkit.adapter`. Subclass it, set ``suite`` and ``tasks``; pytest does the rest.

    Attributes:
        suite: the suite's name or folder.
        tasks: (split, task) pairs to try; the first is the one most tests use.
        steps: control steps of random actions per trial.
        renders: whether to test images; set False where there is no GL.
        cameras: the cameras to test; all of the suite's where empty. For suites whose robots have their own cameras.
    """

    suite: ClassVar[str]
    tasks: ClassVar[list[tuple[str, str]]]
    steps: ClassVar[int] = 40
    renders: ClassVar[bool] = True
    cameras: ClassVar[tuple[str, ...]] = ()

    def test_reset_is_deterministic_and_reuse_equals_fresh(self) -> None:
        """The same episode, fresh and after others in the same process, is the same bit for bit."""
        for task in self.tasks:
            fresh = self._play([(task, 1, 7)])
            reused = self._play([(task, 0, 3), (self.tasks[-1], 1, 5), (task, 1, 7)])
            again = self._play([(task, 1, 7), (task, 1, 7)])
            assert reused[-1]["states"] == fresh[0]["states"], f"{task}: depends on the episodes before it"
            assert again[0] == again[1], f"{task}: the second time differs"

    def test_rendering_changes_no_physics(self) -> None:
        """Never looking, looking at some steps and looking at every step end in the same states."""
        self._skip_without_images()
        suite = self._suite()
        cameras = self.cameras or tuple(suite.cameras)
        never = self._play([(self.tasks[0], 0, 1)])[0]
        for every in (1, 10):
            looked = self._play([(self.tasks[0], 0, 1)], cameras=cameras, look_every=every)[0]
            assert looked["states"] == never["states"], f"looking every {every} steps changes the physics"

    def test_rendering_now_and_then_shows_what_rendering_always_shows(self) -> None:
        """What is seen at a step (images and state vectors) does not depend on which other steps were rendered."""
        self._skip_without_images()
        seen = {"cameras": self.cameras or tuple(self._suite().cameras), "state": tuple(self._suite().state)}
        always = self._play([(self.tasks[0], 0, 1)], **seen, look_every=1)[0]["looks"]
        seldom = self._play([(self.tasks[0], 0, 1)], **seen, look_every=10)[0]["looks"]
        assert len(always) > 10 and seldom == always[::10]

    def test_observations_match_the_suite(self) -> None:
        """Exactly what was asked for, with the shapes and types that suite.yaml states."""
        suite = self._suite()
        cameras = (self.cameras or tuple(suite.cameras)) if self.renders else ()
        shapes = self._play([(self.tasks[0], 0, 1)], cameras=cameras, state=tuple(suite.state))[0]["shapes"]
        assert shapes["images"] == {c: ["uint8", suite.cameras[c].height, suite.cameras[c].width, 3] for c in cameras}
        assert shapes["state"] == {name: ["float64", suite.state[name].size] for name in suite.state}
        task = suite.splits[self.tasks[0][0]].tasks[self.tasks[0][1]]
        assert shapes["instruction"] and (suite.chain or shapes["instruction"] == task)

    def test_nothing_is_looked_at_that_nobody_needs(self) -> None:
        """A policy that needs nothing is shown the instruction and nothing else."""
        shapes = self._play([(self.tasks[0], 0, 1)])[0]["shapes"]
        assert shapes["images"] == {} and shapes["state"] == {}

    def test_bad_actions_are_refused_and_execute_nothing(self) -> None:
        """NaN, infinity, the wrong shape and values out of bounds raise ActionError and leave the state alone."""
        refused = self._trial({"kind": "refusals", "task": list(self.tasks[0])})
        bounded = self._suite().action.out_of_bounds != "execute"
        assert refused == {"nan": True, "inf": True, "short": True, "matrix": True, "high": bounded, "low": bounded}

    def test_scenes_differ(self) -> None:
        """Two scenes of a task are two scenes."""
        first, second = self._play([(self.tasks[0], 0, 1), (self.tasks[0], 1, 1)])
        assert first["states"][0] != second["states"][0]

    def test_demonstrating_changes_nothing_and_plans_what_closed_loop_does(self) -> None:
        """Where there is an expert: a plan of ten steps equals ten plans of one, and asking leaves no trace."""
        known = [task for task in self.tasks if task[0] in self._suite().oracle]
        if not known:
            pytest.skip("no task here that the suite's expert knows")
        for task in known:
            found = self._trial({"kind": "oracle", "task": list(task), "steps": self.steps})
            assert found["planned"] == found["closed_loop"], f"{task}: the plan is not what closed loop does"
            assert found["asked"] == found["left_alone"], f"{task}: asking the expert changed the simulator"
            assert found["continued"], f"{task}: a plan does not continue what is committed"

    def _skip_without_images(self) -> None:
        if not (self.renders and self._suite().cameras):
            pytest.skip("no images here")

    def _suite(self) -> Suite:
        return load_suite(self.suite)

    def _play(
        self,
        episodes: list[tuple[tuple[str, str], int, int]],
        cameras: tuple[str, ...] = (),
        state: tuple[str, ...] = (),
        look_every: int = 1,
    ) -> list[dict[str, Any]]:
        """Plays (task, scene, seed of the random actions) in one process; digests of every state and look."""
        plan = [{"task": list(task), "scene": scene, "actions": seed} for task, scene, seed in episodes]
        observation_spec = ObservationSpec(cameras, state)
        trial = {"kind": "play", "episodes": plan, "steps": self.steps, "observe_every": look_every}
        played: list[dict[str, Any]] = self._trial(trial, observation_spec)["episodes"]
        return played

    def _trial(self, trial: dict[str, Any], observation_spec: ObservationSpec | None = None) -> dict[str, Any]:
        """Runs one trial in a fresh process of the suite's environment."""
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
            [str(environment.python), "-I", str(package_folder() / "worker" / "_bootstrap.py"), "trial"],
            input=pack({"folder": str(installed.suite.folder), "setup": setup, "trial": trial}),
            stdout=subprocess.PIPE,
            env=environment.variables(installed.suite, renders=bool(observation_spec.cameras)),
            check=True,
        )
        return unpack(result.stdout)
