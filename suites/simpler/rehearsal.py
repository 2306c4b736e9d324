"""Which files upstream's code loads for a scene, without SAPIEN loading any.

Upstream's own methods run, on a class derived from the scene's: only the base class's part, which would start the
engine and step it, is left out, and the SAPIEN scene is one that notes file names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .grid import Scene
from .upstream import environment_class


@dataclass
class Files:
    """What is loaded for a scene.

    Attributes:
        visuals: meshes that are drawn; they come with textures.
        collisions: meshes of objects, to collide with.
        stages: meshes of rooms and tables, to collide with.
        robots: URDF files, of the robot and of the furniture.
        images: photographs.
    """

    visuals: list[Path] = field(default_factory=list)
    collisions: list[Path] = field(default_factory=list)
    stages: list[Path] = field(default_factory=list)
    robots: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)


class _Noted(Exception):
    """Everything of interest has been asked for."""


class _Thing:
    """Stands for whatever is built: takes any attribute and any call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: _Thing()


class _Notes(_Thing):
    """Stands for the SAPIEN scene and its builders."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def create_actor_builder(self) -> _Notes:
        return self

    def create_urdf_loader(self) -> _Notes:
        return self

    def add_visual_from_file(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.visuals.append(Path(filename))

    def add_nonconvex_collision_from_file(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.stages.append(Path(filename))

    def add_multiple_collisions_from_file(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.collisions.append(Path(filename))

    def load(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.robots.append(Path(filename))
        raise _Noted


def files_of(scene: Scene, options: Mapping[str, Any]) -> Files:
    """The files that upstream loads for a scene, absolute.

    Args:
        scene: the grid's cell.
        options: what its environment is built with, from :func:`upstream.options`.

    Raises:
        FileNotFoundError: upstream's constructor itself looked for a file or folder and did not find it.
    """
    from mani_skill2_real2sim import format_path
    from mani_skill2_real2sim.envs.sapien_env import BaseEnv

    files = Files()

    class Rehearsal(BaseEnv):  # type: ignore[misc]
        """Takes the place of the base class's constructor and reset in the scene's class."""

        def __init__(self, **kwargs: Any) -> None:
            self._scene, self._renderer = _Notes(files), _Thing()
            self._main_seed = None
            self.set_main_rng(2022)
            self._configure_agent()
            files.robots.append(Path(format_path(str(self._agent_cfg.urdf_path))))

        def reset(self, seed: int | None = None, options: dict | None = None) -> None:
            self._load_actors()
            self._load_articulations()
            raise _Noted

    built = type("Rehearsal", (environment_class(scene.environment), Rehearsal), {})(**options)
    if scene.overlay is not None:
        files.images.append(Path(options["rgb_overlay_path"]))
    with contextlib.suppress(_Noted):
        built.reset(options={name: dict(value) for name, value in scene.placement.items()})
    return files
