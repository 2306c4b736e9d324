"""The checkpoint: a named policy, as ``checkpoints.yaml`` lists it; its parameters can be set where it is named."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, Field

from evalkit.errors import EvalkitError, PolicyProblem, UsageError, unknown
from evalkit.policy import Policy
from evalkit.resources import data_folder
from evalkit.suite import Section, Suite, parse, read_yaml


class Entry(Section):
    """One checkpoint in the file."""

    summary: str
    policy: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    suites: list[str] | None = None


class Listing(Section):
    """The file."""

    checkpoints: dict[str, Entry]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was asked for.

    Attributes:
        id: its name in ``checkpoints.yaml``.
        entry: what the file says of it.
        parameters: the file's parameters with those of the command line over them.
    """

    id: str
    entry: Entry
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def build(self, suite: Suite) -> Policy:
        """The policy, ready to be asked about ``suite``.

        Raises:
            UsageError: it does not run on this suite, or a parameter does not exist or does not fit.
            PolicyProblem: its code cannot be imported or fails.
        """
        if self.entry.suites is not None and suite.name not in self.entry.suites:
            raise UsageError(f"checkpoint {self.id!r} is for {', '.join(self.entry.suites)}, not for {suite.name}")
        try:
            policy: Policy = self._factory()(suite, self._settings())
        except EvalkitError:
            raise
        except Exception as error:
            raise PolicyProblem(f"checkpoint {self.id!r}: {type(error).__name__}: {error}") from error
        return policy

    def settings(self) -> dict[str, Any]:
        """Every parameter, the defaults included, for the manifest. Raises UsageError for one that does not fit."""
        return self._settings().model_dump(mode="json")

    def _settings(self) -> BaseModel:
        return parse(_parameters_of(self._factory()), dict(self.parameters), f"checkpoint {self.id!r}")

    def _factory(self) -> Any:
        try:
            module, _, name = self.entry.policy.partition(":")
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise PolicyProblem(f"checkpoint {self.id!r}: {self.entry.policy} cannot be loaded: {error}") from error


def load_checkpoints() -> dict[str, Entry]:
    """Every checkpoint of ``checkpoints.yaml``. Raises UsageError that names the field at fault."""
    path = data_folder() / "checkpoints.yaml"
    return parse(Listing, read_yaml(path), path).checkpoints


def find_checkpoint(text: str) -> Checkpoint:
    """A checkpoint by ``ID`` or ``ID:key=value,key=value``. Raises UsageError for an unknown one, with the nearest."""
    name, _, settings = text.partition(":")
    entries = load_checkpoints()
    if name not in entries:
        raise unknown("checkpoint", name, entries)
    given: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--checkpoint {text}: write parameters as {name}:key=value,key=value")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--checkpoint {text}: {value!r} is not a value for {key}") from error
    return Checkpoint(name, entries[name], {**entries[name].parameters, **given})


def _parameters_of(factory: Any) -> type[BaseModel]:
    """The pydantic model that a factory takes as its second parameter."""
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = get_type_hints(target)
    kinds = [k for k in hints.values() if inspect.isclass(k) and issubclass(k, BaseModel) and not issubclass(k, Suite)]
    if not kinds:
        raise PolicyProblem(f"{factory.__qualname__} must take (suite: Suite, parameters: <a pydantic model>)")
    return kinds[0]
