"""The files that upstream's code loads for a scene, found without loading them.

Upstream's own methods run on a class derived from the scene's. Only the base class's part, which would start and step
the engine, is left out, and the SAPIEN scene is replaced by a recorder of file names.
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
    """The files loaded for a scene.

    Attributes:
        visuals: visual meshes; they have textures.
        collisions: collision meshes of objects.
        stages: collision meshes of rooms and tables.
        robots: URDF files of the robot and the furniture.
        images: photographs.
    """

    visuals: list[Path] = field(default_factory=list)
    collisions: list[Path] = field(default_factory=list)
    stages: list[Path] = field(default_factory=list)
    robots: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)


class _Recorded(Exception):
    """Every file name of interest has been recorded."""


class _StandIn:
    """A stand-in for any built object: it accepts every attribute and call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: _StandIn()


class _Recorder(_StandIn):
    """A stand-in for the SAPIEN scene and its builders."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def create_actor_builder(self) -> _Recorder:
        return self

    def create_urdf_loader(self) -> _Recorder:
        return self

    def add_visual_from_file(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.visuals.append(Path(filename))

    def add_nonconvex_collision_from_file(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.stages.append(Path(filename))

    def add_multiple_collisions_from_file(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.collisions.append(Path(filename))

    def load(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._files.robots.append(Path(filename))
        raise _Recorded


def files_of(scene: Scene, options: Mapping[str, Any]) -> Files:
    """Return the files that upstream loads for a scene, as absolute paths.

    Args:
        scene: the grid's cell.
        options: its environment's arguments, from :func:`upstream.options`.

    Raises:
        FileNotFoundError: upstream's constructor did not find a file or folder.
    """
    from mani_skill2_real2sim import format_path
    from mani_skill2_real2sim.envs.sapien_env import BaseEnv

    files = Files()

    class Rehearsal(BaseEnv):  # type: ignore[misc]
        """A replacement of the base class's constructor and reset in the scene's class."""

        def __init__(self, **kwargs: Any) -> None:
            self._scene, self._renderer = _Recorder(files), _StandIn()
            self._main_seed = None
            self.set_main_rng(2022)
            self._configure_agent()
            files.robots.append(Path(format_path(str(self._agent_cfg.urdf_path))))

        def reset(self, seed: int | None = None, options: dict | None = None) -> None:
            self._load_actors()
            self._load_articulations()
            raise _Recorded

    built = type("Rehearsal", (environment_class(scene.environment), Rehearsal), {})(**options)
    if scene.overlay is not None:
        files.images.append(Path(options["rgb_overlay_path"]))
    with contextlib.suppress(_Recorded):
        built.reset(options={name: dict(value) for name, value in scene.placement.items()})
    return files
