"""The generator of the reference pages, from the pydantic schema: python docs/generate_reference.py [--check]."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from evalkit.documents import choices
from evalkit.policies.checkpoint import Listing
from evalkit.suite import Suite

FOLDER = Path(__file__).resolve().parent

SUITE = """# `suite.yaml` and `tasks.yaml`

A suite is a folder with `suite.yaml`, `adapter.py` and, usually, `tasks.yaml` and `requirements.txt`.
[`evalkit/adapter.py`](../evalkit/adapter.py) describes the folder and the adapter. This page lists every key of the two
YAML files.

- An unknown key is an error that names the file, the key's path and the nearest known key.
- A key that appears twice is an error. YAML anchors and merge keys work.
- Settings that only the adapter reads go under `adapter`, at the top level and inside a split. The adapter reads them
  with `setup.settings` and `setup.split_settings(split)`.
- All keys are part of the protocol's fingerprint, `adapter` included, except `title`, `summary`, `source`, `sources`,
  `default`, `video`, `oracle`, `headline`, `episodes`, the suite's `scenes`, and every `description`.

`tasks.yaml` holds the tasks of the splits, so that `suite.yaml` stays short: split name → task name → instruction. Its
splits must exist in `suite.yaml`, and each split has its tasks in one of the two files.

```yaml
easy:
  open-door: open the door
```
"""

CHECKPOINTS = """# Checkpoint files

A checkpoint file lists checkpoints by name: evalkit's own [`checkpoints.yaml`](../checkpoints.yaml), and yours with
`--checkpoint-file my.yaml`. [Checkpoints](checkpoints.md) describes their use. This page lists every key.

- An unknown key is an error that names the file, the key's path and the nearest known key.
- `source`, `revision`, `trust_remote_code`, `robot_type`, `chunk` and the entries of `parameters` are the policy's
  parameters. `--checkpoint NAME:key=value` overrides each of them.
- The module of `policy` may lie beside the file. It then comes before any other module of that name. Its neighbours are
  importable by name while it is being imported, and relatively (`from . import helper`) at any time.
- The factory must annotate its parameters: `def build(suite: Suite, parameters: Parameters)`, where `Parameters` is a
  pydantic model, such as a subclass of `evalkit.documents.Section`.

```yaml
checkpoints:
  my-policy:
    summary: My policy, step 10000.
    policy: my_policy:build
    suites: [metaworld]
    parameters: {temperature: 0.5}
```
"""


def pages() -> dict[str, str]:
    """Return the content of every reference page by file name."""
    return {"suite-yaml.md": page(SUITE, Suite), "checkpoint-files.md": page(CHECKPOINTS, Listing)}


def page(introduction: str, model: type[BaseModel]) -> str:
    """Return a page: the introduction, then a table of keys for each section of a file."""
    sections = dict(walk(model, ""))
    parts = [introduction]
    for path, section in sections.items():
        text = (section.__doc__ or "").strip()
        parts.append(f"## {heading(path)}\n\n{text}\n\n{table(section, path, sections)}")
    return "\n".join(parts)


def walk(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (path, model) for a section and, depth first, all sections inside it. NAME stands for any name."""
    yield path, model
    for key, field in model.model_fields.items():
        for kind in choices(field.annotation):
            inner, suffix = (get_args(kind)[1], ".NAME") if get_origin(kind) is dict else (kind, "")
            for choice in choices(inner):
                if isinstance(choice, type) and issubclass(choice, BaseModel):
                    yield from walk(choice, f"{path}.{key}{suffix}".lstrip("."))


def table(model: type[BaseModel], path: str, sections: dict[str, type[BaseModel]]) -> str:
    """Return a section's table of keys: type, default and description."""
    schema = model.model_json_schema()
    places = {section.__name__: place for place, section in sections.items() if place.startswith(path)}
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        if field.exclude:
            continue
        kind = described(schema["properties"][key], places)
        default = "required" if field.is_required() else written(field.get_default(call_default_factory=True))
        lines.append(f"| `{key}` | {kind} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def described(node: dict[str, Any], places: dict[str, str]) -> str:
    """Return a JSON schema's type in words."""
    if "$ref" in node:
        title = heading(places[node["$ref"].rpartition("/")[2]])
        return f"[{title}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')})"
    if "anyOf" in node:
        return " or ".join(described(choice, places) for choice in node["anyOf"] if choice.get("type") != "null")
    if "enum" in node or "const" in node:
        return " or ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {described(node['items'], places)}".replace("integer", "integers").replace("number", "numbers")
    if node.get("type") == "object":
        inner = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")][0]
        return f"name → {described(inner, places)}" if isinstance(inner, dict) else "mapping"
    words = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true` or `false`"}
    limits = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}
    stated = [
        form.format("2³²" if node[key] == 2**32 else f"{node[key]:,.10g}")
        for key, form in limits.items()
        if key in node
    ]
    return " ".join([words[node["type"]], ", ".join(stated)]).strip()


def written(value: Any) -> str:
    """Return a default as YAML, or "optional" for no value."""
    return "optional" if value is None else f"`{json.dumps(value)}`" if value != "" else "empty text"


def heading(path: str) -> str:
    """Return a section's heading: its path, or words for the whole file."""
    return f"`{path}`" if path else "Top level"


def main() -> None:
    """Write the pages, or with ``--check`` exit with 1 if one is stale."""
    stale = [name for name, text in pages().items() if not _is_current(FOLDER / name, text)]
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(stale)}; run python docs/generate_reference.py" if stale else 0)
    for name in stale:
        (FOLDER / name).write_text(pages()[name], encoding="utf-8")


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
