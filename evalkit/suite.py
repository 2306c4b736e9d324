"""The suite: a benchmark under a protocol, as stated in ``suite.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, RootModel, StringConstraints, model_validator

from evalkit.documents import Section, parse, read_yaml
from evalkit.episode import Episode
from evalkit.errors import UsageError, unknown
from evalkit.locations import suite_folder

# Names of suites, splits and tasks make up episode ids and folders: no separators, and no dot at the beginning.
Name = Annotated[str, StringConstraints(pattern=r"^[^/\\.\s][^/\\\n]*$")]


MAX_EPISODES = 2_000_000  # of one run
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Pixels = Annotated[int, Field(gt=0, le=16_384)]

_ADAPTER_HINT = "The adapter's own settings go under 'adapter'."


class Action(Section):
    """The action space of one control step."""

    size: int = Field(gt=0, le=10_000, description="number of dimensions A of an action")
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="the precision in which upstream passes an action to the simulator"
    )
    low: float = Field(description="lower bound of every dimension, in the units of `description`")
    high: float = Field(description="upper bound of every dimension, in the units of `description`")
    out_of_bounds: Literal["clip", "refuse", "execute"] = Field(
        description="the protocol's rule for an action outside the bounds; `execute`: as it is, like upstream"
    )
    description: list[str] = Field(description="the dimensions in order, for people: meaning, unit, frame, sign")
    groups: dict[str, list[int]] = Field(
        {}, description="indices of the dimensions that belong together: `position`, `rotation`, `gripper`"
    )
    idle_action: list[float] | None = Field(
        None, description="the action that holds still, A numbers (asynchronous execution); zeros by default"
    )
    hold_last: list[int] = Field(
        [], description="indices of the dimensions that keep their last command while holding still, such as grippers"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Action:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        for name, indices in {**self.groups, "hold_last": self.hold_last}.items():
            if any(not 0 <= index < self.size for index in indices):
                raise ValueError(f"{name}: must be indices 0 to {self.size - 1} of an action")
        if self.idle_action is not None and len(self.idle_action) != self.size:
            raise ValueError(f"idle_action: must have {self.size} numbers")
        return self


class State(Section):
    """One named state vector, float64."""

    size: int = Field(gt=0, le=1_000_000, description="number of dimensions")
    description: str = Field(description="the dimensions in order, for people: meaning, unit, frame")


class Camera(Section):
    """One named camera. Its images are (height, width, 3) uint8 RGB."""

    height: Pixels = Field(description="height of an image, pixels")
    width: Pixels = Field(description="width of an image, pixels")
    description: str = Field("", description="the camera's place and view, for people")


class VideoSpec(Section):
    """The videos of episodes that `evalkit run --video` records."""

    camera: str = Field(description="name of the camera")
    fps: int = Field(gt=0, le=1000, description="frames per second")


class Headline(Section):
    """The one number that a paper prints: a mean over tasks or over splits, each with equal weight."""

    name: str = Field(description="name of the number in tables")
    mean_of: Literal["tasks", "splits"] = Field(description="the units of the mean")
    splits: list[str] | None = Field(None, description="the splits that it covers; all by default")
    each_split: bool = Field(False, description="`true`: every split is a benchmark with a headline of its own")
    groups: dict[str, list[str]] = Field(
        {}, description="group name → tasks; a group counts as one task, by the mean of its tasks"
    )


class Split(Section):
    """A named set of tasks."""

    unknown_key_hint: ClassVar[str] = _ADAPTER_HINT

    max_steps: Count = Field(description="control steps after which an unsolved episode has failed")
    tasks: dict[Name, str] = Field(
        min_length=1, description="task name → instruction, in the protocol's order; or in `tasks.yaml`"
    )
    scenes: Count | dict[Name, Count] | None = Field(
        None, description="fixed scenes per task: one number for all, or task name → number; the suite's by default"
    )
    control_hz: float | None = Field(None, gt=0, le=1e6, description="control steps per second; the suite's by default")
    hold_last: list[int] | None = Field(None, description="replaces `action.hold_last` in this split")
    repeats: Count = Field(1, description="attempts at each scene under the protocol")
    upstream: str | None = Field(
        None, description="the split's name in upstream's code and result files; its own name by default"
    )
    adapter: dict[str, Any] = Field({}, description="the adapter's own settings of this split")

    @model_validator(mode="after")
    def _scenes_of_every_task(self) -> Split:
        if isinstance(self.scenes, dict) and set(self.scenes) != set(self.tasks):
            raise ValueError(f"scenes: must name each task once: {', '.join(self.tasks)}")
        return self


class Tasks(RootModel[dict[Name, dict[Name, str]]]):
    """The file `tasks.yaml`: split name → task name → instruction."""


class Default(Section):
    """The checkpoint and splits of a run that names none."""

    checkpoint: str = Field(description="name of a checkpoint")
    splits: list[str] | None = Field(None, description="names of splits; all by default")


class EnvironmentSpec(Section):
    """The suite's Python environment. Its packages are in `requirements.txt`."""

    versions: list[str] = Field(
        description="distributions that could change an outcome; their versions are recorded and fingerprinted"
    )
    python: list[Annotated[str, StringConstraints(pattern=r"^3\.\d+$")]] = Field(
        [], description='Python versions that the packages support, such as `"3.11"`; any by default'
    )
    gl: Literal["mujoco"] | None = Field(
        None, description="the library that renders, if its backend is chosen by MUJOCO_GL"
    )


class Assets(Section):
    """Files that the suite needs and its packages do not contain."""

    variable: str = Field(description="environment variable that names their folder")
    hub: str = Field(description="Hugging Face dataset repository that `evalkit setup` downloads them from")
    folder: str = Field("", description="folder inside that repository")


class Repository(Section):
    """A git repository with code that is in no package registry."""

    url: str = Field(description="URL to clone")
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] = Field(description="full commit hash")
    marker: str = Field(description="path of a file by which a checkout is recognised")


class Sources(Section):
    """Upstream code that the suite runs and that is installed from no package registry."""

    variable: str = Field(description="environment variable that names a folder with checkouts")
    repositories: dict[Name, Repository] = Field(min_length=1, description="name of the checkout's folder → repository")


class Suite(Section):
    """A suite under its protocol."""

    unknown_key_hint: ClassVar[str] = _ADAPTER_HINT

    name: Name = Field(description="name of the suite; part of every episode's id")
    title: str = Field(description="name for people")
    summary: str = Field(description="one line for people")
    source: str = Field(description="origin of the benchmark, for people")
    control_hz: float = Field(gt=0, le=1e6, description="control steps per second")
    seed: int = Field(ge=0, lt=2**32, description="simulator seed, set before every reset")
    scenes: Count = Field(description="fixed scenes per task")
    episodes: Count = Field(description="scenes per task that the protocol runs, from the first")
    action: Action = Field(description="the action space")
    state: dict[str, State] = Field({}, description="state vectors by name")
    cameras: dict[str, Camera] = Field({}, description="cameras by name")
    video: VideoSpec | None = Field(None, description="videos of episodes; none by default")
    headline: Headline = Field(description="the one number that a paper prints")
    splits: dict[Name, Split] = Field(min_length=1, description="splits by name, in the protocol's order")
    default: Default = Field(description="checkpoint and splits of a run that names none")
    environment: EnvironmentSpec = Field(description="the Python environment")
    assets: Assets | None = Field(None, description="files that the packages do not contain")
    sources: Sources | None = Field(None, description="upstream code that no package registry has")
    chain: int | None = Field(
        None, gt=0, le=1000, description="sub-tasks in a row per episode, whose measure is then the number solved"
    )
    oracle: list[str] = Field([], description="splits with tasks that the suite's oracle knows")
    adapter: dict[str, Any] = Field({}, description="the adapter's own settings")

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
                    raise ValueError(f"{field}: {unknown('split', name, self.splits)}")
        for name in self.oracle:
            if name not in self.splits:
                raise ValueError(f"oracle: {unknown('split', name, self.splits)}")
        if self.video and self.video.camera not in self.cameras:
            raise ValueError(f"video.camera: {unknown('camera', self.video.camera, self.cameras)}")
        largest = max(self.scenes_of(split, task) for split, section in self.splits.items() for task in section.tasks)
        if self.episodes > largest:
            raise ValueError(f"episodes: {self.episodes} is more than the {largest} scenes")
        return self

    def scenes_of(self, split: str, task: str) -> int:
        """Return the number of fixed scenes of a task."""
        own = self.splits[split].scenes
        return own[task] if isinstance(own, dict) else own or self.scenes

    def upstream_splits(self) -> dict[str, str]:
        """Return the splits by their names in upstream's code and result files."""
        return {section.upstream or name: name for name, section in self.splits.items()}

    def to_message(self) -> dict[str, Any]:
        """Return the whole file as plain data, for the worker and the manifest."""
        return self.model_dump(mode="json")

    def plan(
        self,
        splits: Sequence[str] = (),
        tasks: Sequence[str] = (),
        episodes: int | None = None,
        repeats: int | None = None,
    ) -> list[Episode]:
        """Return the episodes of a run in the protocol's order: split, task, scene, repeat.

        Args:
            splits: names of splits; the suite's default splits if empty.
            tasks: names of tasks, or numbers inside their split; all tasks of the splits if empty. Without ``splits``,
                a name is looked up in every split and a number in the default splits.
            episodes: scenes per task, from the first; the protocol's number if None. Tasks with fewer scenes run all.
            repeats: attempts at each scene; the protocol's number if None.

        Raises:
            UsageError: a name does not exist, or a number is out of range.
        """
        for split in splits:
            if split not in self.splits:
                raise unknown("split", split, self.splits)
        named = any(not _is_number(t) for t in tasks)
        everywhere = list(self.splits) if named else self.default.splits or list(self.splits)
        chosen = [(split, task) for split in (splits or everywhere) for task in self._tasks(split, tasks)]
        for wanted in tasks:
            if not any(self._matches(split, task, wanted) for split, task in chosen):
                every = (task for split in splits or self.splits for task in self.splits[split].tasks)
                raise unknown("task", wanted, dict.fromkeys(every))
        count = self.episodes if episodes is None else episodes
        largest = max(self.scenes_of(*key) for key in chosen)
        if episodes is not None and not 1 <= count <= largest:
            raise UsageError(f"--episodes {count}: {self.name} has 1 to {largest} scenes a task here")
        size = sum(min(count, self.scenes_of(*key)) * (repeats or self.splits[key[0]].repeats) for key in set(chosen))
        if size > MAX_EPISODES:
            raise UsageError(f"{self.name}: {size} episodes; at most {MAX_EPISODES}: lower --episodes or --repeats")
        return [
            Episode(self.name, split, task, scene, self.seed, repeat)
            for split, task in dict.fromkeys(chosen)
            for scene in range(min(count, self.scenes_of(split, task)))
            for repeat in range(repeats or self.splits[split].repeats)
        ]

    def _tasks(self, split: str, wanted: Sequence[str]) -> list[str]:
        return [t for t in self.splits[split].tasks if not wanted or any(self._matches(split, t, w) for w in wanted)]

    def _matches(self, split: str, task: str, wanted: str) -> bool:
        return task == wanted or (_is_number(wanted) and list(self.splits[split].tasks).index(task) == int(wanted))


def _is_number(task: str) -> bool:
    return task.isdecimal() and len(task) < 10


def protocol(suite: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a suite's plain data that could change an outcome: no titles, descriptions or defaults.

    ``action.dtype`` is left out if it is float32, as in manifests of before that key.
    """
    harmless = {"title", "summary", "source", "sources", "default", "video", "oracle", "headline", "episodes", "scenes"}

    def without_descriptions(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {k: without_descriptions(v) for k, v in value.items() if k != "description"}

    rules = {k: without_descriptions(v) for k, v in suite.items() if k not in harmless}
    if "action" in rules:
        rules["action"] = {k: v for k, v in rules["action"].items() if (k, v) != ("dtype", "float32")}
    return rules


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
        content = _with_tasks(content, folder / "tasks.yaml")
    suite = parse(Suite, content, folder / "suite.yaml")
    suite._folder, suite._reference = folder, name
    return suite


def _with_tasks(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return ``suite.yaml``'s content with the tasks of ``tasks.yaml`` in its splits."""
    tasks, splits = parse(Tasks, read_yaml(path), path).root, content.get("splits")
    if not isinstance(splits, dict):
        return content  # which is the error to report
    names = {str(name): name for name in splits}
    filled = dict(splits)
    for split, own in tasks.items():
        if split not in names:
            raise UsageError(f"{path}: {unknown('split', split, names)}")
        section = splits[names[split]]
        if isinstance(section, dict) and "tasks" in section:
            raise UsageError(f"{path}: {split}: suite.yaml also has tasks of this split; remove one of the two")
        if isinstance(section, dict):
            filled[names[split]] = {**section, "tasks": own}
    return {**content, "splits": filled}


def suite_digest(folder: Path) -> str:
    """Return the SHA-256 over the suite's protocol and code, of which any change makes another suite."""
    summary = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml", ".txt") and p.is_file()):
        summary.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return summary.hexdigest()
