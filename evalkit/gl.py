"""The test of MuJoCo's rendering, for suites whose simulator is MuJoCo. Runs in the worker, needs its ``mujoco``."""

from __future__ import annotations

import os

from evalkit.adapter import SimulatorError

ADVICE = (
    "apt-get install libegl1 libegl-mesa0, or MUJOCO_GL=osmesa with libosmesa6, or a checkpoint that needs no camera"
)
_TINY_MODEL = "<mujoco><worldbody><light pos='0 0 2'/><geom size='.1'/></worldbody></mujoco>"


def mujoco_gl() -> dict[str, str]:
    """Render a tiny image and return the GL backend and the renderer's name.

    Raises:
        SimulatorError: rendering fails; the message says what to install.
    """
    backend = os.environ.get("MUJOCO_GL", "unset")
    try:
        import mujoco  # this import fails if the GL backend's library is missing

        model = mujoco.MjModel.from_xml_string(_TINY_MODEL)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, height=16, width=16) as renderer:
            renderer.update_scene(data)
            drawn = bool(renderer.render().any())
            from OpenGL import GL

            name = GL.glGetString(GL.GL_RENDERER)
    except Exception as error:  # GL libraries raise anything: ImportError, AttributeError, GLError, ...
        why = f"MUJOCO_GL={backend}: {type(error).__name__}: {error}"
        raise SimulatorError(f"GL does not work ({why}): {ADVICE}") from error
    if not drawn or name is None:
        raise SimulatorError(f"GL draws nothing (MUJOCO_GL={backend}): {ADVICE}")
    return {"backend": backend, "renderer": str(name.decode())}
