"""The adapter: one episode after another, with one task's simulator at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from evalkit.adapter import Outcome, Setup, SimulatorError
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec

from . import upstream
from .oracle import PickAndPlace, oracle_for
from .scene import CameraView, Sample, Scene


class LiberoAdapter:
    """See ``evalkit.adapter.Adapter``. Keeps the current task's simulator (1.2–1.6 GB) until the task changes."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._views = camera_views(setup)
        self._watched = {name: self._view(name) for name in setup.observation_spec.cameras}
        self._scene: Scene | None = None
        self._initial_states = np.empty((0, 0))
        self._episode: Episode | None = None
        self._sample = Sample({}, {})
        self._oracle: PickAndPlace | None = None

    def reset(self, episode: Episode) -> None:
        """Place the scene under the episode's seed, then take the protocol's waiting steps."""
        scene = self._scene_of(episode)
        if not episode.scene < len(self._initial_states):
            raise SimulatorError(f"{episode.task} has scenes 0..{len(self._initial_states) - 1}, not {episode.scene}")
        scene.reset(episode.seed, self._initial_states[episode.scene])
        self._episode, self._oracle = episode, None
        settings = self._setup.settings
        action = np.asarray(settings["waiting_action"], dtype=np.float32)
        waiting = int(settings["waiting_steps"])
        if waiting == 0:
            self._sample = scene.observe(self._watched)
        for last in reversed(range(waiting)):
            self._sample = scene.advance(action, self._watched if last == 0 else {})
            scene.conclude()

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """Execute one control step. Returns True if the benchmark's own check holds."""
        self._setup.action_space.check(action)
        scene = self._current()
        if self._oracle is not None:
            self._oracle.act(scene)  # its memory advances with every executed step, whatever the action's origin
        self._sample = scene.advance(action, self._watched if observe else {})
        return scene.conclude()

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """Return upstream's observation of the last step, reduced to ``observation_spec``."""
        self._current()
        missing = [name for name in observation_spec.cameras if name not in self._sample.images]
        if missing:
            raise SimulatorError(
                f"no image of {', '.join(missing)} was taken in the last step: "
                "name the camera in the setup's observation_spec, and step with observe=True before observing"
            )
        unknown = [name for name in observation_spec.state if name not in self._sample.state]
        if unknown:
            raise SimulatorError(f"no state vector {', '.join(unknown)}: there is {', '.join(self._sample.state)}")
        return Observation(
            instruction=self._setup.instruction(*self._playing().task_key),
            images={name: self._sample.images[name] for name in observation_spec.cameras},
            state={name: self._sample.state[name] for name in observation_spec.state},
        )

    def outcome(self) -> Outcome:
        """Return success by the benchmark's own check."""
        return Outcome(success=self._current().solved())

    def state(self) -> np.ndarray:
        """See :meth:`Scene.state`."""
        return self._current().state()

    def render_frame(self, camera: str) -> np.ndarray:
        """Return an upright frame of this instant."""
        scene = self._current()
        if not scene.renders:
            raise SimulatorError("nothing is rendered here: name video_camera in the setup")
        return np.ascontiguousarray(scene.render(self._view(camera))[::-1])

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """Return the oracle's next ``steps`` actions: a copy of it acts, and its actions are undone."""
        scene = self._current()
        if self._oracle is None:
            self._oracle = oracle_for(self._setup, self._playing(), scene)
        oracle = copy.copy(self._oracle)
        plan = np.zeros((steps, self._setup.action_space.size), dtype=np.float32)
        with scene.preserved():
            for step in range(steps):
                plan[step] = oracle.act(scene)  # its memory advances with every step, committed ones included
                if committed is not None and step < len(committed):
                    plan[step] = committed[step]
                scene.advance(plan[step], {})
        return plan

    def close(self) -> None:
        """Free the simulator."""
        if self._scene is not None:
            self._scene.close()
        self._scene = self._episode = None

    def _scene_of(self, episode: Episode) -> Scene:
        """Return the simulator of the episode's task: the present one, or a new one in its place."""
        if self._scene is not None and self._episode is not None and self._episode.task_key == episode.task_key:
            return self._scene
        self.close()
        folder = self._setup.split(episode.split)["upstream"]
        self._initial_states = upstream.initial_states(folder, episode.task)
        try:
            self._scene = Scene(
                upstream.task_file(folder, episode.task),
                control_hz=int(self._setup.suite["control_hz"]),
                renders=self._setup.renders,
                seed=episode.seed,
            )
        except (OSError, ValueError, LookupError, RuntimeError, AttributeError, AssertionError) as error:
            raise SimulatorError(
                f"{episode.split}/{episode.task} cannot be built ({type(error).__name__}: {error}); "
                "evalkit doctor libero lists the missing parts"
            ) from error
        return self._scene

    def _current(self) -> Scene:
        if self._scene is None or self._episode is None:
            raise SimulatorError("no episode: reset first")
        return self._scene

    def _playing(self) -> Episode:
        assert self._episode is not None
        return self._episode

    def _view(self, camera: str) -> CameraView:
        if camera not in self._views:
            raise SimulatorError(f"no camera {camera}: there is {', '.join(self._views)}")
        return self._views[camera]


def camera_views(setup: Setup) -> Mapping[str, CameraView]:
    """Return the suite's cameras by their names in ``suite.yaml``."""
    upstream_names = setup.settings["upstream_cameras"]
    cameras = setup.suite["cameras"].items()
    return {name: CameraView(str(upstream_names[name]), int(c["height"]), int(c["width"])) for name, c in cameras}
