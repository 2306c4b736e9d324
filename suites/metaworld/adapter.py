"""Meta-World's side of evalkit: 50 Sawyer tasks on MuJoCo, with the package's scripted policies as the oracle.

Sources: metaworld 3.1.1 (``MT1``'s fixed tasks, ``SawyerXYZEnv.step``, ``metaworld.policies``); LeRobot's
``envs/metaworld.py`` for the corner2 camera's pose and flip.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from evalkit.adapter import Outcome, Probe, Setup, SimulatorError
from evalkit.episode import Episode
from evalkit.gl import mujoco_gl
from evalkit.observation import Observation, ObservationSpec

from .scenes import fixed_placements
from .snapshot import Snapshot, integration_state

_MOST_ENVIRONMENTS = 16  # tasks that a worker keeps built, so that a shuffled order does not rebuild one per episode


def build(setup: Setup) -> MetaWorldAdapter:
    """Return the adapter; no simulator is built before the first reset."""
    return MetaWorldAdapter(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Import the simulator and, if images will be rendered, test GL."""
    metadata: dict[str, Any] = {}
    problems: list[str] = []
    try:
        if setup.renders:
            metadata["gl"] = mujoco_gl()
        known = _registry()
        problems += [f"task {task}: not in this version of metaworld" for _, task in tasks if task not in known]
    except SimulatorError as error:
        problems.append(str(error))
    except ImportError as error:
        problems.append(f"metaworld cannot be imported ({error}); run: evalkit setup metaworld")
    return Probe(metadata=metadata, problems=problems)


def _registry() -> dict[str, Any]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return dict(ALL_V3_ENVIRONMENTS)


class _Built:
    """One task's environment, its 50 placements and its oracle (Meta-World's scripted policy)."""

    def __init__(self, setup: Setup, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        kind = _registry().get(task)
        if kind is None:
            raise SimulatorError(f"task {task}: not in this version of metaworld")
        ((height, width),) = {(c["height"], c["width"]) for c in setup.suite["cameras"].values()}  # one size for all
        self.env = kind(height=height, width=width)
        for camera, position in setup.settings["camera_positions"].items():
            self.env.model.camera(camera).pos = position
        self._flipped = setup.settings["camera_flips"]
        self.placements = fixed_placements(self.env, task, int(setup.suite["seed"]), int(setup.suite["scenes"]))
        self.oracle = ENV_POLICY_MAP[task]()

    def render(self, camera: str) -> np.ndarray:
        import mujoco

        renderer = self.env.mujoco_renderer
        renderer.camera_id = mujoco.mj_name2id(self.env.model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if renderer.camera_id < 0:
            raise SimulatorError(f"Meta-World has no camera {camera!r}")
        renderer._get_viewer("rgb_array").make_context_current()  # each task's environment has its own context
        image = renderer.render("rgb_array")
        return np.ascontiguousarray(image[::-1, ::-1] if camera in self._flipped else image)


class MetaWorldAdapter:
    """An adapter for Meta-World; also an ``OraclePlanner`` and a ``FrameRenderer``."""

    def __init__(self, setup: Setup) -> None:
        warnings.filterwarnings("ignore", module=r"metaworld\..*")  # "Constant(s) may be too high", at every step
        self._setup = setup
        self._space = setup.action_space
        self._built: OrderedDict[str, _Built] = OrderedDict()
        self._task: _Built | None = None
        self._instruction = ""
        self._observed: np.ndarray = np.zeros(39)
        self._solved = False
        self._planned: list[tuple[np.ndarray, Snapshot, np.ndarray, bool]] = []

    def reset(self, episode: Episode) -> None:
        """See :class:`evalkit.adapter.Adapter`."""
        if episode.seed != self._setup.suite["seed"]:
            raise SimulatorError(f"Meta-World's placements are fixed by seed {self._setup.suite['seed']}")
        task = self._task = self._environment(episode.task)
        if not 0 <= episode.scene < len(task.placements):
            raise SimulatorError(f"task {episode.task} has scenes 0 to {len(task.placements) - 1}, not {episode.scene}")
        self._instruction = self._setup.instruction(episode.split, episode.task)
        task.env.set_task(task.placements[episode.scene])
        self._observed = task.env.reset()[0]
        self._solved = False
        self._planned = []

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """See :class:`evalkit.adapter.Adapter`. ``observe`` has no effect: images are taken later."""
        self._space.check(action)
        if self._planned and np.array_equal(self._planned[0][0], action):
            # The oracle's plan was simulated from this state with this action: its end state is the result.
            _, after, self._observed, self._solved = self._planned.pop(0)
            after.restore()
        else:
            self._planned = []
            self._observed, self._solved = self._simulate(action)
        return self._solved

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """See :class:`evalkit.adapter.Adapter`."""
        return Observation(
            instruction=self._instruction,
            images={camera: self._current.render(camera) for camera in observation_spec.cameras},
            state={"proprioception": self._observed[:4].copy()} if "proprioception" in observation_spec.state else {},
        )

    def outcome(self) -> Outcome:
        """Return success: ``info["success"]`` of the last step."""
        return Outcome(success=self._solved)

    def state(self) -> np.ndarray:
        """Return MuJoCo's integration state and the scene's placement of the fixtures."""
        env = self._current.env
        placement = (env.model.body_pos, env.model.body_quat, env.model.site_pos)  # a scene may move fixtures
        return np.concatenate([integration_state(env), *(part.ravel() for part in placement)])

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """See :class:`evalkit.adapter.OraclePlanner`. The oracle reads the 39-D observation, goal included."""
        env, observed, solved = self._current.env, self._observed, self._solved
        here = Snapshot(env)
        plan, self._planned = [], []
        for step in range(steps):
            wanted = self._current.oracle.get_action(observed.copy())  # some oracles write into their input
            action = np.clip(wanted, self._space.low, self._space.high)
            action = action.astype(np.float32)
            if committed is not None and step < len(committed):
                action = committed[step]
            plan.append(action)
            over = solved or env.curr_path_length >= env.max_path_length  # later actions are never executed
            if not over:
                observed, solved = self._simulate(action)
                self._planned.append((action, Snapshot(env), observed, solved))
        here.restore()
        return np.stack(plan)

    def render_frame(self, camera: str) -> np.ndarray:
        """See :class:`evalkit.adapter.FrameRenderer`."""
        return self._current.render(camera)

    def close(self) -> None:
        """Close every environment that this worker built."""
        for built in self._built.values():
            built.env.close()
        self._built.clear()

    @property
    def _current(self) -> _Built:
        if self._task is None:
            raise SimulatorError("reset an episode first")
        return self._task

    def _simulate(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        observed, _, _, _, info = self._current.env.step(action)
        return observed, bool(info["success"])

    def _environment(self, task: str) -> _Built:
        if task not in self._built:
            if len(self._built) >= _MOST_ENVIRONMENTS:
                self._built.popitem(last=False)[1].env.close()
            self._built[task] = _Built(self._setup, task)
        self._built.move_to_end(task)
        return self._built[task]
