"""Documents: YAML and JSON read strictly, validated with pydantic, and compared field by field."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from evalkit import files
from evalkit.errors import UsageError, excerpt, nearest
from evalkit.files import MAX_DEPTH, Unreadable, check_plain, read_text


class Section(BaseModel):
    """A part of a file that people write: frozen, without unknown keys and without infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    unknown_key_hint: ClassVar[str] = ""  # a sentence after the message on an unknown key


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UsageError: it is not a readable file or not such YAML; the message names the file, and the line if it has one.
    """
    try:
        content = parse_yaml(read_text(path, _MAX_YAML_BYTES))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown line"
        raise UsageError(f"{path}: not valid YAML at {where}: {error.problem or error.context}") from error
    except (Unreadable, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping of names to values")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file strictly. Raises UsageError that names the file; see :func:`evalkit.files.parse_json`."""
    try:
        return files.read_json(path)
    except Unreadable as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text: mappings with plain keys, lists and plain values, within bounds.

    Raises:
        yaml.YAMLError: the text is anything else; the error has the place.
    """
    return yaml.load(text, _Strict)


_MAX_YAML_BYTES = 1 << 20
_MAX_VALUES = 30_000  # keys, lists, mappings and plain values; those behind an alias count each time
_YAML = "tag:yaml.org,2002:"
_SCALARS = {f"{_YAML}{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp", "merge")}
_TAGS = {yaml.ScalarNode: _SCALARS, yaml.SequenceNode: {f"{_YAML}seq"}, yaml.MappingNode: {f"{_YAML}map"}}


class _Strict(yaml.SafeLoader):
    """YAML without surprises.

    A repeated key is an error, because the first value would be lost silently. Tags that make other objects, keys that
    are not plain, values that their type does not take and documents beyond the bounds are errors too.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[int, int] = {}  # by a finished node's id, its values

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. Raises MarkedYAMLError if it breaks a bound, contains itself or has another tag."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"more than {MAX_DEPTH} mappings and lists within each other", event)
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refusal(f"*{event.anchor} stands for a value that contains it", event)
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
            if node.tag not in _TAGS[type(node)]:
                raise _refusal(f"the tag {excerpt(node.tag.replace(_YAML, '!!'), 60)} is not used here", event)
        if self._values > _MAX_VALUES:
            raise _refusal(f"more than {_MAX_VALUES} values", event)
        self._depth -= 1
        return node  # type: ignore[no-any-return]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the node's value. Raises MarkedYAMLError if the text of a plain value is none of its type."""
        try:
            value = super().construct_object(node, deep)
            check_plain(value if isinstance(node, yaml.ScalarNode) else None)
        except (ValueError, LookupError, TypeError) as error:
            shown = excerpt(node.value, 60) if isinstance(node, yaml.ScalarNode) else "this"
            problem = f"{shown!r} {error}" if isinstance(error, Unreadable) else f"{shown!r} is not a value"
            raise _refusal(f"{problem} (put text in quotes)", node) from error
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises MarkedYAMLError at the second of two equal keys, or a key that is not plain."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a key must be a plain value", key)
            if key.tag != f"{_YAML}merge":
                name = self.construct_object(key)
                if name in seen:
                    raise _refusal(f"{name!r} appears twice", key)
                seen.add(name)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def _refusal(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, where.start_mark)


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
