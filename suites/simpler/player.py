"""The adapter: one episode after another, each in a new environment."""

from __future__ import annotations

import numpy as np

from evalkit.adapter import Outcome, Setup, SimulatorError
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec

from . import assets, cooking, upstream, vulkan
from .grid import Scene, scene_of
from .oracle import Oracle, oracle_for
from .simulation import Simulation


class SimplerAdapter:
    """See ``evalkit.adapter.Adapter``; also an ``OraclePlanner`` and a ``FrameRenderer``."""

    def __init__(self, setup: Setup) -> None:
        """Prepare Vulkan. Raises SimulatorError if there is none."""
        self._setup = setup
        self._space = setup.action_space
        self._shader = setup.settings["cpu_shader"] if vulkan.on_cpu(vulkan.prepare()) else None
        self._simulation: Simulation | None = None
        self._oracle: Oracle | None = None

    def reset(self, episode: Episode) -> None:
        """See :class:`evalkit.adapter.Adapter`. Builds a new scene."""
        self.close()
        scene = scene_of(self._setup, episode.split, episode.task, episode.scene)
        needed = assets.needed(self._setup, scene)
        absent = assets.missing(upstream.sources(self._setup)[1], needed.files)
        if absent:
            raise SimulatorError(f"{episode.split}/{episode.task}, scene {episode.scene}: {assets.describe(absent)}")
        cooking.cook(needed.stages)
        self._episode, self._scene = episode, scene
        self._simulation = self._build(scene)
        self._actions: list[np.ndarray] = []

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """See :class:`evalkit.adapter.Adapter`. ``observe`` has no effect: images are taken later."""
        self._space.check(action)
        self._actions.append(np.array(action))
        solved = self._current.advance(action)
        return solved or len(self._actions) >= self._scene.limit

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """See :class:`evalkit.adapter.Adapter`. Raises SimulatorError for a camera that the robot does not have."""
        simulation, own = self._current, self._scene.robot["camera"]
        for camera in observation_spec.cameras:
            if camera != own:
                raise SimulatorError(f"{self._episode.split} has no camera {camera}: its robot has {own} alone")
        state = {"eef_pose": simulation.eef_pose, "gripper_openness": simulation.gripper_openness}
        return Observation(
            instruction=simulation.instruction(),
            images={camera: simulation.render() for camera in observation_spec.cameras},
            state={name: state[name]() for name in observation_spec.state},
        )

    def outcome(self) -> Outcome:
        """Return the result of the benchmark's own check after the last step."""
        return Outcome(success=self._current.success)

    def state(self) -> np.ndarray:
        """See :meth:`Simulation.state`."""
        return self._current.state()

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """See :class:`evalkit.adapter.OraclePlanner`. The oracle plays ahead in a second simulator of this episode."""
        if self._oracle is None:
            self._oracle = oracle_for(self._setup, self._episode, lambda: self._build(self._scene))
        fixed = np.zeros((0, self._space.size)) if committed is None else committed[:steps]
        planned = self._oracle.plan([*self._actions, *fixed], steps - len(fixed))
        return np.concatenate([fixed, planned])

    def render_frame(self, camera: str) -> np.ndarray:
        """See :class:`evalkit.adapter.FrameRenderer`. Every name stands for the robot's own camera."""
        return self._current.render()

    def close(self) -> None:
        """Free the simulators of the last episode."""
        for part in (self._oracle, self._simulation):
            if part is not None:
                part.close()
        self._simulation, self._oracle = None, None

    @property
    def _current(self) -> Simulation:
        if self._simulation is None:
            raise SimulatorError("reset an episode first")
        return self._simulation

    def _build(self, scene: Scene) -> Simulation:
        return Simulation(self._setup, scene, self._shader)
