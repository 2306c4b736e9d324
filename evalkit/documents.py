"""Documents: YAML and JSON read strictly, validated with pydantic, and compared field by field."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from evalkit.errors import UsageError, nearest


class Section(BaseModel):
    """A part of a file that people write: frozen, without unknown keys and without infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    unknown_key_hint: ClassVar[str] = ""  # a sentence after the message on an unknown key


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UsageError that names the file and the line at fault."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown line"
        raise UsageError(f"{path}: not valid YAML at {where}: {error.problem or error.context}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping of names to values")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UsageError that names the file, also for a repeated key and a number without end."""
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def parse_json(text: bytes) -> Any:
    """Parse JSON in UTF-8, strictly.

    Raises:
        ValueError: it is not JSON, a key appears twice (one of the values would be lost), a number is not finite, text
            has half of a surrogate pair, or mappings and lists are nested too deeply to be read.
    """
    try:
        value = json.loads(
            text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise ValueError(f"key {name!r} appears twice")
        mapping[name] = value
    return mapping


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:30]} is not a finite number")
    return number


class _Strict(yaml.SafeLoader):
    """YAML in which a repeated key is an error, because the first value would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises MarkedYAMLError at the second of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_MESSAGES = {  # pydantic's types of errors, for those whose own words do not say what to do
    "model_type": "must be a mapping of names to values",
    "dict_type": "must be a mapping of names to values",
    "list_type": "must be a list",
    "string_type": "must be text (put it in quotes if YAML reads it as something else)",
    "missing": "is missing",
}
_Model = TypeVar("_Model", bound=BaseModel)


def parse(model: type[_Model], content: Any, where: Path | str) -> _Model:
    """Validate ``content`` against ``model``.

    Raises UsageError that names ``where``, the full path of the field at fault and the values that it takes. An unknown
    key is reported before other faults, with the nearest known key of its section or all of them.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
        field = ".".join(str(part) for part in first["loc"]) or "file"
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UsageError(
            f"{where}: {field}: {_message(model, first['type'], first['loc'], first['msg'])}{more}"
        ) from error


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Return the message for a key that a section does not have: the nearest key that it has, or all of them."""
    near = nearest(key, known, count=1, cutoff=0.6)
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known here: {', '.join(known)}"


def keys(model: type[BaseModel]) -> list[str]:
    """Return the keys that a section takes in a file, without the fields that evalkit fills in itself."""
    return [field.alias or name for name, field in model.model_fields.items() if not field.exclude]


def _message(model: type[BaseModel], kind: str, place: Sequence[int | str], text: str) -> str:
    if kind == "extra_forbidden":
        sections = _sections(model, place[:-1])
        hints = [section.unknown_key_hint for section in sections if issubclass(section, Section)]
        message = unknown_key(str(place[-1]), [key for section in sections for key in keys(section)])
        return " ".join([message, *filter(None, hints)])
    return _MESSAGES.get(kind, text.removeprefix("Value error, "))


def _sections(model: type[BaseModel], place: Sequence[int | str]) -> list[type[BaseModel]]:
    """Return the models that describe ``place``, an error's location; several if the schema has alternatives there."""
    kinds: list[Any] = [model]
    for part in place:
        inner = [kind for outer in kinds for kind in _inside(outer, part)]
        kinds = inner or kinds  # pydantic also names the alternative of a union that it tried: no step inwards
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _inside(kind: Any, part: int | str) -> list[Any]:
    """Return the types of the values at key or index ``part`` of a value of type ``kind``."""
    if isinstance(kind, type) and issubclass(kind, RootModel):
        return _inside(kind.model_fields["root"].annotation, part)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        return [
            choice
            for name in fields
            if part in (name, fields[name].alias)
            for choice in choices(fields[name].annotation)
        ]
    if get_origin(kind) is dict and isinstance(part, str):
        return choices(get_args(kind)[1])
    if get_origin(kind) in (list, tuple) and isinstance(part, int):
        return [choice for item in get_args(kind) for choice in choices(item)]
    return []


def choices(kind: Any) -> list[Any]:
    """Return the alternatives of a type annotation: the members of a union, without ``Annotated``."""
    if get_origin(kind) is Annotated:
        return choices(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [choice for member in get_args(kind) for choice in choices(member)]
    return [kind]


def first_difference(was: Any, now: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Return the first of :func:`differences`, or None."""
    return next(differences(was, now, path), None)


def differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the places at which two JSON values differ: (dotted field, one value, the other)."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            yield from differences(was.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (a, b) in enumerate(zip(was, now, strict=True)):
            yield from differences(a, b, f"{path}[{index}]")
    elif was != now:
        yield path, was, now


def short(value: Any) -> str:
    """Return a JSON value as text of at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
