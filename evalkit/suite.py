"""The suite: a benchmark under a protocol, as ``suite.yaml`` states it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, PrivateAttr, StringConstraints, model_validator

from evalkit.documents import Section, parse, read_yaml
from evalkit.episode import Episode
from evalkit.errors import UsageError, unknown
from evalkit.locations import suite_folder

# Names of suites, splits and tasks make up episode ids and folders: no separators, and no dot at the beginning.
Name = Annotated[str, StringConstraints(pattern=r"^[^/\\.\s][^/\\\n]*$")]


class Action(Section):
    """The action space of one control step."""

    size: int = Field(gt=0)
    low: float
    high: float
    out_of_bounds: Literal["clip", "refuse", "execute"] = Field(
        description="what the protocol does with an action outside the bounds; ``execute``: nothing, as upstream"
    )
    description: list[str]
    groups: dict[str, list[int]] = Field({}, description="which numbers belong together: position, rotation, gripper")
    idle_action: list[float] | None = Field(None, description="holding still; zeros where absent")
    hold_last: list[int] = Field([], description="numbers that stay as last commanded while holding still: grippers")

    @model_validator(mode="after")
    def _is_whole(self) -> Action:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        for name, indices in {**self.groups, "hold_last": self.hold_last}.items():
            if any(not 0 <= index < self.size for index in indices):
                raise ValueError(f"{name}: must name numbers 0 to {self.size - 1} of an action")
        if self.idle_action is not None and len(self.idle_action) != self.size:
            raise ValueError(f"rest: must have {self.size} numbers")
        return self


class State(Section):
    """One named state vector."""

    size: int = Field(gt=0)
    description: str


class Camera(Section):
    """One named camera."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    description: str = ""


class VideoSpec(Section):
    """What a video of an episode shows."""

    camera: str
    fps: int = Field(gt=0)


class Headline(Section):
    """The one number a paper prints: the mean over tasks or over splits, each counted equally."""

    name: str
    mean_of: Literal["tasks", "splits"]
    splits: list[str] | None = Field(None, description="the splits it is made of; all of them where absent")
    each_split: bool = Field(False, description="whether every split is a benchmark of its own, with its own number")
    groups: dict[str, list[str]] = Field({}, description="tasks that count as one, by their mean")


class Split(BaseModel):
    """A named set of tasks. Further keys are the adapter's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    max_steps: int = Field(gt=0, description="control steps after which an unsolved episode has failed")
    tasks: dict[Name, str] = Field(min_length=1, description="task name → instruction")
    scenes: PositiveInt | dict[Name, PositiveInt] | None = Field(
        None, description="fixed scenes a task, for all or by task; the suite's number where absent"
    )
    control_hz: float | None = Field(None, gt=0, description="the suite's where absent")
    hold_last: list[int] | None = Field(None, description="as in the action space, over what stands there")
    repeats: PositiveInt = Field(1, description="attempts at each scene that the protocol runs")

    @model_validator(mode="after")
    def _scenes_of_every_task(self) -> Split:
        if isinstance(self.scenes, dict) and set(self.scenes) != set(self.tasks):
            raise ValueError(f"scenes: must name each task once: {', '.join(self.tasks)}")
        return self


class Default(Section):
    """What runs when nothing is asked for."""

    checkpoint: str
    splits: list[str] | None = None


class Environment(Section):
    """The suite's Python environment."""

    versions: list[str] = Field(description="distributions that could change an outcome: recorded and fingerprinted")
    python: list[Annotated[str, StringConstraints(pattern=r"^3\.\d+$")]] = Field(
        [], description="Pythons that the closure can be installed on; whichever evalkit runs on where empty"
    )
    gl: Literal["mujoco"] | None = Field(None, description="how images are made; None where nothing renders")


class Assets(Section):
    """Files that the suite needs and its packages do not carry."""

    variable: str = Field(description="the environment variable that names their folder")
    hub: str = Field(description="Hugging Face dataset repository they are fetched from by `evalkit setup`")
    folder: str = Field("", description="the folder inside that repository")


class Repository(Section):
    """A git repository with code that no package registry has."""

    url: str
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    marker: str = Field(description="a file in it, by which a checkout is recognised")


class Sources(Section):
    """Upstream code that the suite runs and that is installed from no package registry."""

    variable: str = Field(description="the environment variable that names a folder with checkouts")
    repositories: dict[Name, Repository] = Field(min_length=1)


class Suite(BaseModel):
    """A suite under its protocol. Further keys are the adapter's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    title: str
    summary: str
    source: str
    control_hz: float = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32, description="set before every reset")
    scenes: int = Field(gt=0, description="fixed scenes a task")
    episodes: int = Field(gt=0, description="scenes a task that the protocol runs")
    action: Action
    state: dict[str, State] = {}
    cameras: dict[str, Camera] = {}
    video: VideoSpec | None = None
    headline: Headline
    splits: dict[Name, Split]
    default: Default
    environment: Environment
    assets: Assets | None = None
    sources: Sources | None = None
    chain: int | None = Field(
        None, gt=0, description="sub-tasks in a row that an episode asks for; its measure is then how many are solved"
    )
    oracle: list[str] = Field([], description="splits whose tasks the scripted oracle knows")

    _folder: Path = PrivateAttr(Path())
    _reference: str = PrivateAttr("")

    @property
    def folder(self) -> Path:
        """The folder that holds ``suite.yaml`` and ``adapter.py``."""
        return self._folder

    @property
    def reference(self) -> str:
        """The name or folder by which the user referred to the suite, for commands in messages."""
        return self._reference

    @model_validator(mode="after")
    def _names_exist(self) -> Suite:
        for field, names in {"headline.splits": self.headline.splits, "default.splits": self.default.splits}.items():
            for name in names or []:
                if name not in self.splits:
                    raise ValueError(f"{field}: no split {name!r}")
        for name in self.oracle:
            if name not in self.splits:
                raise ValueError(f"oracle: no split {name!r}")
        if self.video and self.video.camera not in self.cameras:
            raise ValueError(f"film.camera: no camera {self.video.camera!r}")
        most = max(self.scenes_of(split, task) for split, section in self.splits.items() for task in section.tasks)
        if self.episodes > most:
            raise ValueError(f"episodes: {self.episodes} is more than the {most} scenes")
        return self

    def scenes_of(self, split: str, task: str) -> int:
        """How many fixed scenes a task has."""
        own = self.splits[split].scenes
        return own[task] if isinstance(own, dict) else own or self.scenes

    def to_message(self) -> dict[str, Any]:
        """The whole file as plain data, for the worker and the manifest."""
        return self.model_dump(mode="json")

    def plan(
        self,
        splits: Sequence[str] = (),
        tasks: Sequence[str] = (),
        episodes: int | None = None,
        repeats: int | None = None,
    ) -> list[Episode]:
        """The episodes of a run, in the protocol's order: split, task, scene, repeat.

        Args:
            splits: names of splits; the suite's default ones where empty.
            tasks: names (or numbers inside their split) of tasks; all of the splits' tasks where empty. Without
                ``splits``, a task's name is looked for in every split, a number in the default ones.
            episodes: scenes per task, from the first; the protocol's number where None. Tasks with fewer run all.
            repeats: attempts at each scene; the protocol's number where None.

        Raises:
            UsageError: a name does not exist, or a number is out of range.
        """
        for split in splits:
            if split not in self.splits:
                raise unknown("split", split, self.splits)
        named = any(not t.isdecimal() for t in tasks)
        everywhere = list(self.splits) if named else self.default.splits or list(self.splits)
        chosen = [(split, task) for split in (splits or everywhere) for task in self._tasks(split, tasks)]
        for wanted in tasks:
            if not any(self._matches(split, task, wanted) for split, task in chosen):
                every = (task for split in splits or self.splits for task in self.splits[split].tasks)
                raise unknown("task", wanted, dict.fromkeys(every))
        count = self.episodes if episodes is None else episodes
        most = max(self.scenes_of(*key) for key in chosen)
        if episodes is not None and not 1 <= count <= most:
            raise UsageError(f"--episodes {count}: {self.name} has 1 to {most} scenes a task here")
        return [
            Episode(self.name, split, task, scene, self.seed, repeat)
            for split, task in dict.fromkeys(chosen)
            for scene in range(min(count, self.scenes_of(split, task)))
            for repeat in range(repeats or self.splits[split].repeats)
        ]

    def _tasks(self, split: str, wanted: Sequence[str]) -> list[str]:
        return [t for t in self.splits[split].tasks if not wanted or any(self._matches(split, t, w) for w in wanted)]

    def _matches(self, split: str, task: str, wanted: str) -> bool:
        return task == wanted or (wanted.isdecimal() and list(self.splits[split].tasks).index(task) == int(wanted))


def protocol(suite: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a suite's plain data that could change an outcome: without titles, explanations and defaults."""
    described = {
        "title",
        "summary",
        "source",
        "sources",
        "default",
        "video_camera",
        "oracle",
        "headline",
        "episodes",
        "scenes",
    }

    def without_meanings(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {k: without_meanings(v) for k, v in value.items() if k != "description"}

    return {k: without_meanings(v) for k, v in suite.items() if k not in described}


def load_suite(name: str | Suite) -> Suite:
    """Read a suite by its name or folder; return a Suite as it is.

    Raises:
        UsageError: names the file and the field at fault.
    """
    if isinstance(name, Suite):
        return name
    folder = suite_folder(name)
    content = read_yaml(folder / "suite.yaml")
    if (folder / "tasks.yaml").is_file():
        splits = content.get("splits")
        for split, tasks in read_yaml(folder / "tasks.yaml").items():
            section = splits.get(split) if isinstance(splits, dict) else None
            if not isinstance(section, dict):
                raise UsageError(f"{folder / 'tasks.yaml'}: split {split!r} is not in suite.yaml")
            section["tasks"] = tasks
    suite = parse(Suite, content, folder / "suite.yaml")
    suite._folder, suite._reference = folder, name
    return suite


def suite_digest(folder: Path) -> str:
    """SHA-256 over the suite's protocol and code: a change to either makes another suite of it."""
    summary = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml", ".txt")):
        summary.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return summary.hexdigest()
