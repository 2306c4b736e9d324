"""Files that people write: YAML read strictly, validated with pydantic, and compared field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from evalkit.errors import UsageError


class Section(BaseModel):
    """A part of a file that people write: frozen, and with no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UsageError that names the file and the line at fault."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise UsageError(f"{path}: not valid YAML at {where}: {error.problem or error.context}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping of names to values")
    return content


class _Strict(yaml.SafeLoader):
    """YAML in which a key that stands there twice is an error: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises MarkedYAMLError at the second of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_WORDS = {  # pydantic's types of errors, for those whose own words do not say what to do
    "extra_forbidden": "there is no such field: remove it, or mend its spelling",
    "model_type": "must be a mapping of names to values",
    "dict_type": "must be a mapping of names to values",
    "list_type": "must be a list",
    "string_type": "must be text (in quotes, where YAML would read something else)",
    "missing": "is missing",
}
_Model = TypeVar("_Model", bound=BaseModel)


def parse(model: type[_Model], content: Any, where: Path | str) -> _Model:
    """Validates ``content``. Raises UsageError that names ``where``, the field at fault and what it must be."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        message = _WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UsageError(f"{where}: {field}: {message}{more}") from error


def first_difference(was: Any, now: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first of :func:`differences`, or None."""
    return next(differences(was, now, path), None)


def differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places where two JSON values differ: (dotted field, one value, the other)."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            yield from differences(was.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (a, b) in enumerate(zip(was, now, strict=True)):
            yield from differences(a, b, f"{path}[{index}]")
    elif was != now:
        yield path, was, now


def short(value: Any) -> str:
    """A JSON value on part of a line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
