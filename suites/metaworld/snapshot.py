"""A saved state of a Meta-World environment, restored bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

_FIXED = frozenset({"model", "data", "mujoco_renderer", "np_random", "action_space", "observation_space"})

# Quantities that MuJoCo derives from the state, and that an observation or the renderer reads before the next step
# derives them anew. Every step computes contacts and constraint forces before anything reads them: they are left out.
_BODIES = ("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "subtree_com", "qacc")
_SCENERY = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
_DERIVED = (*_BODIES, *_SCENERY)


class Snapshot:
    """The whole of an environment's mutable state: MuJoCo's integration state and the Python attributes beside it.

    Some attributes are views of MuJoCo's own memory (a site's position, say), so arrays are restored in place and
    stay views.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._state = integration_state(env)
        self._attributes = {name: value for name, value in vars(env).items() if name not in _FIXED}
        derived = [getattr(env.data, name) for name in _DERIVED]
        own = [v for v in self._attributes.values() if isinstance(v, np.ndarray) and v.flags.writeable]
        self._arrays = [(array, array.copy()) for array in (*derived, *own)]

    def restore(self) -> None:
        """Restore the environment to this snapshot."""
        import mujoco

        for name in [n for n in vars(self._env) if n not in _FIXED and n not in self._attributes]:
            delattr(self._env, name)
        vars(self._env).update(self._attributes)
        mujoco.mj_setState(self._env.model, self._env.data, self._state, mujoco.mjtState.mjSTATE_INTEGRATION)
        for array, content in self._arrays:
            array[...] = content


def integration_state(env: Any) -> np.ndarray:
    """Return MuJoCo's integration state, (N,) float64: time, positions, velocities, warm start, controls, mocap."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, state, kind)
    return state
