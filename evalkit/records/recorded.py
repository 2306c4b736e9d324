"""The parts of a manifest that its readers rely on, and their types. Other keys in these parts are left as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from evalkit.execution.delay import Delay
from evalkit.suite import Headline

_MAX_DEPTH = 100  # of mappings and lists inside each other: deeper ones cannot be written, compared or shown
_Text = Annotated[str, Field(min_length=1)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Fingerprint(_Part):
    suite: _Text
    protocol: _Text


class _ObservationSpec(_Part):
    cameras: list[str] = []


class _Checkpoint(_Part):
    id: _Text
    observation_spec: _ObservationSpec = _ObservationSpec()
    batch_invariant: bool | None = None
    metadata: dict[str, Any] = {}


class _Execution(_Part):
    name: _Text
    horizon: PositiveInt | None
    delay: dict[str, Any] | None = None

    @field_validator("delay")
    @classmethod
    def _is_delay(cls, delay: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            Delay.from_dict(delay or {"steps": 0})
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"not a delay ({error!r})") from error
        return delay


class _Split(_Part):
    max_steps: PositiveInt
    tasks: Annotated[dict[str, str], Field(min_length=1)]
    scenes: PositiveInt | dict[str, PositiveInt] | None = None
    repeats: PositiveInt = 1
    control_hz: _Rate | None = None

    @model_validator(mode="after")
    def _scenes_of_every_task(self) -> _Split:
        if isinstance(self.scenes, dict) and set(self.scenes) != set(self.tasks):
            raise ValueError("scenes do not name each task once")
        return self


class _Suite(_Part):
    title: str
    headline: Headline
    splits: Annotated[dict[str, _Split], Field(min_length=1)]
    episodes: PositiveInt
    chain: PositiveInt | None = None
    control_hz: _Rate = 1.0

    @model_validator(mode="after")
    def _headline_names_splits(self) -> _Suite:
        for name in self.headline.splits or []:
            if name not in self.splits:
                raise ValueError(f"headline.splits: there is no split {name!r}")
        return self


_PARTS: Mapping[str, type[_Part]] = {
    "fingerprint": _Fingerprint,
    "checkpoint": _Checkpoint,
    "execution": _Execution,
    "suite": _Suite,
}


def check_parts(content: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, if a part of a manifest is not what its readers rely on.

    Args:
        content: the manifest's fields by name.
    """
    for name, model in _PARTS.items():
        if _depth(content[name]) > _MAX_DEPTH:
            raise ValueError(f"{name} is nested more than {_MAX_DEPTH} deep")
        try:
            model.model_validate(content[name])
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(map(str, (name, *fault["loc"])))
            if fault["type"] == "missing":
                raise ValueError(f"{field} is missing") from None
            message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            raise ValueError(f"{field}: {message}") from None


def _depth(value: Any) -> int:
    """Return the number of mappings and lists inside each other, at most one more than the limit."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        inner = [one.values() if isinstance(one, Mapping) else one for one in level if isinstance(one, Mapping | list)]
        depth += bool(inner)
        level = [value for values in inner for value in values]
    return depth
