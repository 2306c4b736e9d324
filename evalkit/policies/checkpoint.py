"""The checkpoint: a named policy, as listed in ``checkpoints.yaml``, with parameters from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, StringConstraints, field_validator

from evalkit.documents import Section, keys, parse, parse_yaml, read_yaml, unknown_key
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem, UsageError, excerpt, unknown
from evalkit.files import read_json
from evalkit.locations import data_folder
from evalkit.policies.factories import load_factory, parameters_of
from evalkit.policies.hub import COMMIT, HUB_ID, REVISION
from evalkit.policies.process import messages
from evalkit.policies.process.family import family_of
from evalkit.policies.process.host import PolicyProcess
from evalkit.policy import MAX_CHUNK_SIZE, Policy
from evalkit.suite import Suite

_FAMILIES = {"mibot": "evalkit.policies.xiaomi_robotics_0:XiaomiRobotics0"}  # model_type in config.json → policy


class PublishedScores(Section):
    """The authors' reported results."""

    metric: str = Field(description="name of the metric: success rate (a fraction of 1) or average length")
    source: str = Field(description="publication with the results")
    scores: dict[str, float] = Field(
        min_length=1, description="suite (`libero`) or split (`libero/spatial`) → score, in the unit of `metric`"
    )


class KnownRevision(Section):
    """A commit that somebody else names for the checkpoint. The user is told of it; it is never used unasked."""

    commit: str = Field(pattern=COMMIT.pattern, description="full commit of the repository, 40 hexadecimal digits")
    named_by: str = Field(description="the publication that names it")


class Entry(Section):
    """One checkpoint."""

    summary: str = Field(description="one line for people")
    policy: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="the factory, `module:name`, called with (suite, parameters); the module may lie beside the file",
    )
    source: str | None = Field(
        default=None, description="weights, if the policy has any: a repository on the Hugging Face hub, or a directory"
    )
    revision: str | None = Field(
        default=None,
        pattern=REVISION.pattern,
        description="full commit of the repository, or a branch or tag, whose commit the lock file keeps; the "
        "default branch by default",
    )
    known_revision: KnownRevision | None = Field(
        default=None, description="a commit to mention when the user is asked about the code"
    )
    trust_remote_code: bool | None = Field(
        default=None,
        description="`true`: the code that comes with the weights may run without a question; `false`: never; by "
        "default the user is asked",
    )
    robot_type: str | None = Field(default=None, description="the model's own name for the robot")
    suites: list[str] | None = Field(default=None, description="names of the suites that it is for; any by default")
    splits: dict[str, list[str]] = Field(
        default_factory=dict, description="suite → the splits that it is for; all splits by default"
    )
    chunk: int | None = Field(
        default=None,
        ge=1,
        le=MAX_CHUNK_SIZE,
        description="length T of its action chunks, control steps; checked against the model",
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="further parameters of the policy")
    published: PublishedScores | None = Field(
        default=None, description="the authors' reported results; none by default"
    )

    @field_validator("policy", mode="before")
    @classmethod
    def _names_a_factory(cls, value: object) -> object:
        if isinstance(value, str) and ":" not in value:
            raise ValueError(f"{value!r} must be module:name, such as my_package.policies:MyPolicy")
        return value

    def defaults(self) -> dict[str, Any]:
        """Return the fields that are parameters of the policy."""
        own = {k: getattr(self, k) for k in ("source", "revision", "trust_remote_code", "robot_type", "chunk")}
        if self.known_revision is not None:
            own["known_revision"] = self.known_revision.model_dump()
        return {**{k: v for k, v in own.items() if v is not None}, **self.parameters}


class Listing(Section):
    """A checkpoint file."""

    checkpoints: dict[Annotated[str, StringConstraints(pattern=r"^[^:,\s][^:,\n]*$")], Entry] = Field(
        description="checkpoints by name; a name has no colon or comma and does not start with white space"
    )


class NamedParameters(Section):
    """Parameters of a policy whose messages name its checkpoint, in commands that they suggest."""

    display_name: str = Field("", exclude=True, description="the checkpoint's name as given; set by evalkit")


class HubParameters(NamedParameters):
    """Parameters of a policy with weights, from a directory or from a repository on the Hugging Face hub.

    evalkit resolves ``revision`` to a full commit, downloads the files and asks about code among them before it builds
    a policy with such parameters (:mod:`evalkit.policies.trust`).
    """

    source: str = Field(exclude=True, description="a directory, or a repository on the Hugging Face hub")
    revision: str | None = Field(
        None, pattern=REVISION.pattern, description="the commit of that repository; a branch or tag before it is built"
    )
    known_revision: dict[str, str] | None = Field(
        None, exclude=True, description="a commit to mention to the user, and the publication that it is named_by"
    )
    trust_remote_code: bool = Field(False, description="allow the code that comes with the weights to run")
    code_sha256: str | None = Field(None, exclude=True, description="the code that may run; set by evalkit")

    @classmethod
    def missing_libraries(cls) -> str | None:
        """Return a message about the first library that the policy lacks on this machine, or None."""
        return None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as named on the command line.

    Attributes:
        id: its name in ``checkpoints.yaml``, or that of its directory or repository.
        entry: its entry in the file.
        parameters: the file's parameters, overridden by those of the command line.
        asked: its name as given on the command line, without parameters.
        folder: the folder of the user's file that lists it, from which its module may be imported; else None.
    """

    id: str
    entry: Entry
    parameters: Mapping[str, Any] = field(default_factory=dict)
    asked: str = ""
    folder: Path | None = None

    def suite(self, asked: str | None) -> str:
        """Return the suite that was asked for, or the only one it is for. Raises UsageError if there are several."""
        if asked is not None:
            return asked
        if self.entry.suites is None or len(self.entry.suites) != 1:
            raise UsageError(f"checkpoint {self.id!r} is for more than one suite: pass --suite SUITE")
        return self.entry.suites[0]

    def having(self, settings: Mapping[str, Any]) -> Checkpoint:
        """Return a copy with some parameters set. Raises UsageError for one that this policy does not have."""
        known = self._model().model_fields if settings else {}
        for key in settings:
            if key not in known:
                raise UsageError(f"--{key.replace('_', '-')}: checkpoint {self.id!r} has no such parameter")
        return replace(self, parameters={**self.parameters, **settings})

    def check_ready(self, suite: Suite) -> None:
        """Check all that needs neither the checkpoint's files nor the user: this comes before a question or a download.

        Raises:
            UsageError: it is not for this suite, or for a split that the suite does not have.
            EnvironmentProblem: libraries of its policy are missing.
        """
        if self.entry.suites is not None and suite.name not in self.entry.suites:
            raise UsageError(f"checkpoint {self.id!r} is for {', '.join(self.entry.suites)}, not for {suite.name}")
        for split in self.entry.splits.get(suite.name, []):
            if split not in suite.splits:
                known = ", ".join(suite.splits)
                raise UsageError(f"checkpoint {self.id!r}: splits.{suite.name}: no split {split!r}; there are: {known}")
        family = family_of(self.entry.policy)
        if family is None or family.built:
            return
        if not family.importable:
            remedy = f"the environment of {family.name} is not built: run `evalkit setup {family.name}`"
            raise EnvironmentProblem(f"checkpoint {self.id!r}: {remedy}")
        model = self._model()
        missing = model.missing_libraries() if issubclass(model, HubParameters) else None
        if missing:
            raise EnvironmentProblem(f"checkpoint {self.id!r}: {missing}")

    def hub_parameters(self) -> HubParameters | None:
        """Return the parameters if its weights are a repository on the hub, else None. Raises UsageError if unfit."""
        if not issubclass(self._model(), HubParameters):
            return None
        settings = self._settings()
        assert isinstance(settings, HubParameters)
        named = HUB_ID.match(settings.source) and _folder(settings.source) is None
        return settings if named else None

    def build(self, suite: Suite, timeout_s: float = 300.0) -> Policy:
        """Return the policy, ready for observations of ``suite``.

        A policy of a family whose environment is built runs there, in a process of its own; any other in this process.

        Args:
            suite: the suite.
            timeout_s: seconds without an answer after which a process of its own counts as hung.

        Raises:
            UsageError: it does not run on this suite, or a parameter does not exist or does not fit.
            EnvironmentProblem: it needs something that this machine lacks.
            PolicyProblem: its code cannot be imported or fails.
        """
        self.check_ready(suite)
        try:
            policy: Policy = self._in_process_of_its_own(suite, timeout_s) or self.build_here(suite)
        except EvalkitError as error:
            if str(error).startswith("checkpoint "):
                raise
            raise type(error)(f"checkpoint {self.id!r}: {error}") from error
        except (Exception, SystemExit) as error:  # code that ends the process must not end this one
            raise PolicyProblem(f"checkpoint {self.id!r}: {type(error).__name__}: {excerpt(error)}") from error
        return policy

    def build_here(self, suite: Suite) -> Policy:
        """Return the policy in this process. Its code may raise any error."""
        policy: Policy = self._factory()(suite, self._settings())
        return policy

    def _in_process_of_its_own(self, suite: Suite, timeout_s: float) -> Policy | None:
        """Return the policy in its family's environment, or None if it has no family or that is not built."""
        family = family_of(self.entry.policy)
        if family is None or not family.built:
            return None
        self._settings()  # a wrong parameter is refused here, before a process starts
        named = {"display_name": self.asked or self.id} if issubclass(self._model(), NamedParameters) else {}
        beside = str(self.folder) if self.folder else None
        build = messages.build(suite, self.entry.policy, beside, {**self.parameters, **named})
        return PolicyProcess(family.environment, build, timeout_s)

    def identity(self) -> dict[str, Any]:
        """Return id, code and every parameter, defaults included, for the manifest."""
        settings = self._settings().model_dump(mode="json")
        return {"id": self.id, "policy": self.entry.policy, "parameters": settings}

    def _settings(self) -> BaseModel:
        model = self._model()
        where = f"checkpoint {self.id!r}"
        for key in self.parameters:  # a model that ignores unknown keys would drop one silently
            ignores = model.model_config.get("extra") in (None, "ignore")
            if ignores and key not in {*model.model_fields, *keys(model)}:
                raise UsageError(f"{where}: {key}: {unknown_key(key, keys(model))}")
        named = {"display_name": self.asked or self.id} if issubclass(model, NamedParameters) else {}
        return parse(model, {**self.parameters, **named}, where)

    def _model(self) -> type[BaseModel]:
        return parameters_of(self._factory(), f"checkpoint {self.id!r}: {self.entry.policy}")

    def _factory(self) -> Any:
        try:
            return load_factory(self.entry.policy, self.folder)
        except (Exception, SystemExit) as error:  # importing it runs it
            known = isinstance(error, ImportError | AttributeError)
            why = excerpt(error if known else f"{type(error).__name__}: {error}")
            raise PolicyProblem(f"checkpoint {self.id!r}: {self.entry.policy} cannot be loaded: {why}") from error


def load_checkpoints(more: Path | None = None) -> dict[str, Entry]:
    """Return every checkpoint of ``checkpoints.yaml``, then those of the user's own file.

    Raises UsageError that names the file, the entry and the field at fault.
    """
    shipped, own = _read(data_folder() / "checkpoints.yaml"), _read(more) if more else {}
    for name in own:
        if name in shipped:
            raise UsageError(f"{more}: checkpoints.{name}: evalkit has one of that name; choose another")
    return {**shipped, **own}


def _read(path: Path) -> dict[str, Entry]:
    return parse(Listing, read_yaml(path), path).checkpoints


def find_checkpoint(text: str, more: Path | None = None) -> Checkpoint:
    """Return the checkpoint of ``NAME`` or ``NAME:key=value,key=value``.

    Args:
        text: the NAME is an entry of ``checkpoints.yaml`` or of the user's own file, the path of a directory that
            holds a checkpoint, or a repository on the Hugging Face hub.
        more: the user's own file.

    Raises:
        UsageError: there is no such checkpoint; names the nearest entries.
    """
    name, settings = (text, "") if _folder(text) else (text.partition(":")[0], text.partition(":")[2])
    entries = load_checkpoints(more)
    folder = _folder(name)
    beside = None
    if name in entries:
        label, entry = name, entries[name]
        beside = more.parent if more and name in _read(more) else None
    elif folder:
        label, entry = folder.resolve().name, _entry_of_folder(folder)
    elif HUB_ID.match(name) and not name.startswith("."):
        summary, policy = f"{name} on the Hugging Face hub", _FAMILIES["mibot"]
        label, entry = name.partition("/")[2], Entry(summary=summary, policy=policy, source=name)
    elif "/" in name:
        raise UsageError(f"--checkpoint {name}: no such directory")
    else:
        raise unknown("checkpoint", name, entries)
    given = _given(text, name, settings)
    if "source" in given and "trust_remote_code" not in given and _folder(str(given["source"])):
        given["trust_remote_code"] = True  # as for any directory on the command line
    return Checkpoint(label, entry, {**entry.defaults(), **given}, asked=name, folder=beside)


def _folder(name: str) -> Path | None:
    """Return the directory of that name, or None."""
    try:
        folder = Path(name).expanduser()
        return folder if name and folder.is_dir() else None
    except (RuntimeError, OSError):  # ~name of a user that this machine does not have, or a name that no file can have
        return None


def _given(text: str, name: str, settings: str) -> dict[str, Any]:
    """Return the parameters on the command line; values are read as YAML."""
    given: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--checkpoint {text}: write parameters as {name}:key=value,key=value")
        try:
            given[key] = parse_yaml(value)
        except yaml.YAMLError as error:
            shown = f"--checkpoint {excerpt(text, 200)}: {excerpt(value, 60)!r}"
            raise UsageError(f"{shown} is not a value for {key}") from error
    return given


def _entry_of_folder(folder: Path) -> Entry:
    """Return an entry for a directory that the user named: its code is trusted, and its content hash pins it."""
    config = folder / "config.json"
    try:
        kind = read_json(config, strict=False)["model_type"]
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"--checkpoint {folder}: {config.name}: has no model_type ({excerpt(error)})") from error
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise UsageError(
            f"--checkpoint {folder}: {config.name}: evalkit loads model_type {', '.join(_FAMILIES)}, not "
            f"{excerpt(kind, 100)!r}; serve it with its own code and use --checkpoint remote:url=ws://HOST:PORT"
        )
    return Entry(summary=str(folder), policy=_FAMILIES[kind], source=str(folder), trust_remote_code=True)
