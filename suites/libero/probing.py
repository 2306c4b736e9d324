"""What ``probe`` looks at: the asset folder, the files the chosen tasks need, and GL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.adapter import Probe, Setup, SimulatorError

from . import assets, upstream

GL_ADVICE = "apt-get install libegl1 libegl-mesa0, or MUJOCO_GL=osmesa with libosmesa6"
NAMED_STAND_INS = 3
TINY_MODEL = "<mujoco><worldbody><light pos='0 0 2'/><geom size='.1'/></worldbody></mujoco>"


def run(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """See ``evalkit.adapter``: facts, problems and reasons not to compare, for (split, task) pairs."""
    facts: dict[str, Any] = {}
    problems: list[str] = []
    incomparable: list[str] = []
    if setup.renders:
        try:
            facts["gl"] = {"backend": os.environ.get("MUJOCO_GL", ""), "renderer": gl_renderer()}
        except SimulatorError as error:
            problems.append(str(error))
    folder_problem = assets.folder_problem(setup.assets)
    if folder_problem:
        return Probe(facts, [*problems, folder_problem], incomparable)
    folder = Path(str(setup.assets))
    digest, files = assets.digest(folder)
    stand_ins = assets.stand_ins(folder)
    facts["assets"] = {"digest": digest, "files": files, "stand_ins": stand_ins}
    if stand_ins:
        named = ", ".join(stand_ins[:NAMED_STAND_INS])
        count = f"{len(stand_ins)} asset files are stand-ins"
        incomparable.append(f"{count} ({named}, ...): their images are not the benchmark's")
    if not problems:  # where GL fails, libero cannot be imported
        problems += _missing_files(setup, folder, tasks)
    return Probe(facts, problems, incomparable)


def gl_renderer() -> str:
    """The name of the GL renderer, after a tiny picture came out right; raises SimulatorError where none does."""
    backend = os.environ.get("MUJOCO_GL") or "unset"
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string(TINY_MODEL)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, height=16, width=16) as renderer:
            renderer.update_scene(data)
            drawn = bool(renderer.render().any())
            from OpenGL import GL

            name = GL.glGetString(GL.GL_RENDERER)
    except Exception as error:  # GL libraries fail with whatever they like: ImportError, AttributeError, GLError, ...
        reason = f"MUJOCO_GL={backend}: {type(error).__name__}: {error}"
        raise SimulatorError(f"GL does not work ({reason}): {GL_ADVICE}") from error
    if not drawn or name is None:
        raise SimulatorError(f"GL draws nothing (MUJOCO_GL={backend}): {GL_ADVICE}")
    return str(name.decode())


def _missing_files(setup: Setup, folder: Path, tasks: Sequence[tuple[str, str]]) -> list[str]:
    """One line for each file that is not there, with the tasks that need it."""
    upstream.prepare(str(folder), setup.renders)
    needed_by: dict[str, list[str]] = {}
    problems = []
    for split, task in tasks:
        path = upstream.task_file(setup.split(split)["upstream"], task)
        if not path.is_file():
            problems.append(f"{path}: missing, the task file of {split}/{task}: evalkit setup libero")
            continue
        for file in assets.needed(folder, path):
            needed_by.setdefault(file, []).append(f"{split}/{task}")
    for file, users in sorted(needed_by.items()):
        if (folder / file).is_file():
            continue
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        problems.append(f"{folder / file}: missing, needed by {users[0]}{more}: {assets.HOW_TO_GET}")
    return problems
