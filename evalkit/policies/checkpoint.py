"""The checkpoint: a named policy, as ``checkpoints.yaml`` lists it; its parameters can be set where it is named."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import yaml
from pydantic import BaseModel, Field, StringConstraints, field_validator

from evalkit.documents import Section, parse, read_yaml
from evalkit.errors import EvalkitError, PolicyProblem, UsageError, unknown
from evalkit.locations import data_folder
from evalkit.policies.weights import COMMIT, HUB_ID
from evalkit.policy import Policy
from evalkit.suite import Suite

_FAMILIES = {"mibot": "evalkit.policies.xiaomi_robotics_0:XiaomiRobotics0"}  # model_type in config.json → policy


class Published(Section):
    """What the authors report.

    Attributes:
        metric: what the scores are: success rate (a fraction of 1) or average length.
        source: where they were published.
        scores: by suite (``libero``) or split (``libero/spatial``).
    """

    metric: str
    source: str
    scores: dict[str, float] = Field(min_length=1)


class Entry(Section):
    """One checkpoint in the file.

    Attributes:
        summary: one line for people.
        policy: the factory, ``module:name``: called with (suite, parameters).
        source: its weights, for policies that have any: a repository on the Hugging Face hub, or a directory.
        revision: the repository's full commit.
        trust_remote_code: whether the code that comes with the weights may run.
        robot_type: the model's own name for the robot.
        suites: the suites it is for; any where absent.
        splits: by suite, the splits it is for; all where absent.
        chunk: the length T of its action chunks, checked against the loaded model.
        parameters: further parameters of the policy.
        published: the authors' figures.
    """

    summary: str
    policy: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    source: str | None = None
    revision: str | None = None
    trust_remote_code: bool | None = None
    robot_type: str | None = None
    suites: list[str] | None = None
    splits: dict[str, list[str]] = Field(default_factory=dict)
    chunk: int | None = Field(default=None, ge=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    published: Published | None = None

    @field_validator("revision")
    @classmethod
    def _is_a_commit(cls, value: str | None) -> str | None:
        if value is not None and not COMMIT.match(value):
            raise ValueError(f"{value!r} must be a full commit (40 hexadecimal digits): a branch or tag can move")
        return value

    @field_validator("policy", mode="before")
    @classmethod
    def _names_a_factory(cls, value: object) -> object:
        if isinstance(value, str) and ":" not in value:
            raise ValueError(f"{value!r} must be module:name, such as my_package.policies:MyPolicy")
        return value

    def defaults(self) -> dict[str, Any]:
        """Everything here that is a parameter of the policy."""
        own = {k: getattr(self, k) for k in ("source", "revision", "trust_remote_code", "robot_type", "chunk")}
        return {**{k: v for k, v in own.items() if v is not None}, **self.parameters}


class Listing(Section):
    """The file."""

    checkpoints: dict[Annotated[str, StringConstraints(pattern=r"^[^:,\s][^:,\n]*$")], Entry]


class NamedParameters(Section):
    """Parameters of a policy that speaks of its checkpoint by name, in the commands that its messages suggest."""

    display_name: str = Field("", exclude=True, description="what the checkpoint was called; filled in by evalkit")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was asked for.

    Attributes:
        id: its name in ``checkpoints.yaml``, or that of its directory or repository.
        entry: what the file says of it.
        parameters: the file's parameters with those of the command line over them.
        asked: how it was named on the command line, without parameters.
    """

    id: str
    entry: Entry
    parameters: Mapping[str, Any] = field(default_factory=dict)
    asked: str = ""

    def suite(self, asked: str | None) -> str:
        """The suite that was asked for, or the only one it is for. Raises UsageError where that leaves a choice."""
        if asked is not None:
            return asked
        if self.entry.suites is None or len(self.entry.suites) != 1:
            raise UsageError(f"checkpoint {self.id!r} is for more than one suite: pass --suite SUITE")
        return self.entry.suites[0]

    def having(self, settings: Mapping[str, Any]) -> Checkpoint:
        """The same with some parameters set. Raises UsageError for one that this policy does not have."""
        known = _parameters_of(self._factory()).model_fields if settings else {}
        for key in settings:
            if key not in known:
                raise UsageError(f"--{key.replace('_', '-')}: checkpoint {self.id!r} has no such parameter")
        return replace(self, parameters={**self.parameters, **settings})

    def build(self, suite: Suite) -> Policy:
        """The policy, ready to be asked about ``suite``.

        Raises:
            UsageError: it does not run on this suite, or a parameter does not exist or does not fit.
            EnvironmentProblem: it needs something that this machine lacks.
            PolicyProblem: its code cannot be imported or fails.
        """
        if self.entry.suites is not None and suite.name not in self.entry.suites:
            raise UsageError(f"checkpoint {self.id!r} is for {', '.join(self.entry.suites)}, not for {suite.name}")
        for split in self.entry.splits.get(suite.name, []):
            if split not in suite.splits:
                known = ", ".join(suite.splits)
                raise UsageError(f"checkpoint {self.id!r}: splits.{suite.name}: no split {split!r}; there are: {known}")
        try:
            policy: Policy = self._factory()(suite, self._settings())
        except EvalkitError as error:
            if str(error).startswith("checkpoint "):
                raise
            raise type(error)(f"checkpoint {self.id!r}: {error}") from error
        except (Exception, SystemExit) as error:  # code that ends the process must not end this one
            raise PolicyProblem(f"checkpoint {self.id!r}: {type(error).__name__}: {error}") from error
        return policy

    def identity(self) -> dict[str, Any]:
        """Id, code and every parameter, the defaults included, for the manifest."""
        settings = self._settings().model_dump(mode="json")
        return {"id": self.id, "policy": self.entry.policy, "parameters": settings}

    def _settings(self) -> BaseModel:
        model = _parameters_of(self._factory())
        given = dict(self.parameters)
        if issubclass(model, NamedParameters):
            given["display_name"] = self.asked or self.id
        return parse(model, given, f"checkpoint {self.id!r}")

    def _factory(self) -> Any:
        try:
            module, _, name = self.entry.policy.partition(":")
            return getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:  # importing it runs it
            why = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
            raise PolicyProblem(f"checkpoint {self.id!r}: {self.entry.policy} cannot be loaded: {why}") from error


def load_checkpoints(more: Path | None = None) -> dict[str, Entry]:
    """Every checkpoint of ``checkpoints.yaml``, then those of the user's own file.

    Raises UsageError that names the file, the entry and the field at fault.
    """
    path = data_folder() / "checkpoints.yaml"
    entries = parse(Listing, read_yaml(path), path).checkpoints
    if more is not None:
        own = parse(Listing, read_yaml(more), more).checkpoints
        for name in own:
            if name in entries:
                raise UsageError(f"{more}: checkpoints.{name}: evalkit has one of that name; choose another")
        entries = {**entries, **own}
    return entries


def find_checkpoint(text: str, more: Path | None = None) -> Checkpoint:
    """A checkpoint as ``NAME`` or ``NAME:key=value,key=value``.

    Args:
        text: the NAME is an entry of ``checkpoints.yaml`` or of the user's own file, the path of a directory that
            holds a checkpoint, or a repository on the Hugging Face hub.
        more: the user's own file.

    Raises:
        UsageError: there is no such thing; names the nearest entries.
    """
    name, settings = (text, "") if _folder(text) else (text.partition(":")[0], text.partition(":")[2])
    entries = load_checkpoints(more)
    folder = _folder(name)
    if name in entries:
        label, entry = name, entries[name]
    elif folder:
        label, entry = folder.resolve().name, _entry_of_folder(folder)
    elif HUB_ID.match(name) and not name.startswith("."):
        summary, policy = f"{name} on the Hugging Face hub", _FAMILIES["mibot"]
        label, entry = name.partition("/")[2], Entry(summary=summary, policy=policy, source=name)
    elif "/" in name:
        raise UsageError(f"--checkpoint {name}: no such directory")
    else:
        raise unknown("checkpoint", name, entries)
    return Checkpoint(label, entry, {**entry.defaults(), **_given(text, name, settings)}, asked=name)


def _folder(name: str) -> Path | None:
    """The directory of that name, if there is one."""
    try:
        folder = Path(name).expanduser()
    except RuntimeError:  # ~somebody whom this machine does not know
        return None
    return folder if name and folder.is_dir() else None


def _given(text: str, name: str, settings: str) -> dict[str, Any]:
    """The parameters on the command line; values are read as YAML."""
    given: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--checkpoint {text}: write parameters as {name}:key=value,key=value")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--checkpoint {text}: {value!r} is not a value for {key}") from error
    return given


def _entry_of_folder(folder: Path) -> Entry:
    """A directory that was named by hand: its code is the user's to trust, and its content hash pins it."""
    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--checkpoint {folder}: {config.name}: has no model_type ({error})") from error
    if kind not in _FAMILIES:
        raise UsageError(
            f"--checkpoint {folder}: {config.name}: evalkit loads model_type {', '.join(_FAMILIES)}, not {kind!r}; "
            "serve it with its own code and use --checkpoint remote:url=ws://HOST:PORT"
        )
    return Entry(summary=str(folder), policy=_FAMILIES[kind], source=str(folder), trust_remote_code=True)


def _parameters_of(factory: Any) -> type[BaseModel]:
    """The pydantic model that a factory takes as its second parameter."""
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = get_type_hints(target)
    kinds = [k for k in hints.values() if inspect.isclass(k) and issubclass(k, BaseModel) and not issubclass(k, Suite)]
    if not kinds:
        raise PolicyProblem(f"{factory.__qualname__} must take (suite: Suite, parameters: <a pydantic model>)")
    return kinds[0]
