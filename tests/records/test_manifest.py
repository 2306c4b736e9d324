"""The fingerprint: every rule of the protocol is in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.made_up import made_up
from support.marks import slow
from support.paths import POINTMASS, RELAY

from evalkit.errors import UsageError
from evalkit.records.manifest import Plan, PlannedTask, fingerprint, read_manifest
from evalkit.suite import Suite, load_suite

# Outside the protocol: texts, defaults and the plan, which the manifest has apart.
DESCRIBED = {
    "title", "summary", "source", "sources", "default", "video", "oracle", "headline", "episodes", "scenes",
}  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values that are neither a mapping nor a list, and of empty mappings and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield path
    for key, child in inside:
        yield from leaves(child, (*path, key))


def changed(content: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """A copy with another value at the path."""
    content = copy.deepcopy(content)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = ["changed", place[path[-1]]]
    return content


def protocol_of(content: dict[str, Any]) -> str:
    """The digest of a suite's protocol; nothing is validated, so that every field can be changed alone."""
    suite = Suite.model_construct(**content)
    digest = fingerprint(suite, {}, {})["protocol"]
    assert isinstance(digest, str)
    return digest


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", [POINTMASS, RELAY, "metaworld", "libero", "calvin", slow("simpler")])
def test_every_rule_of_the_protocol_is_in_the_fingerprint(name: str) -> None:
    content = load_suite(name).to_message()
    tasks_tried: dict[str, int] = {}
    before = protocol_of(content)
    assert before == fingerprint(load_suite(name), {}, {})["protocol"]
    paths = set()
    for path in leaves(content):
        if path[:1] == ("splits",) and "tasks" in path:  # two tasks of each split stand for all
            tasks_tried[path[1]] = tasks_tried.get(path[1], 0) + 1
            if tasks_tried[path[1]] > 2:
                continue
        paths.add(path[0])
        outside = path[0] in DESCRIBED or path[-1] == "description" or "description" in path
        assert (protocol_of(changed(content, path)) == before) == outside, ".".join(map(str, path))
    assert {"seed", "control_hz", "action", "splits", "environment"} <= paths


def test_versions_and_metadata_are_in_the_fingerprint_as_they_are() -> None:
    suite = load_suite(POINTMASS)
    assert fingerprint(suite, {"numpy": "2"}, {"gl": "egl"}) == {
        **fingerprint(suite, {}, {}),
        "versions": {"numpy": "2"},
        "gl": "egl",
    }


@pytest.mark.parametrize(("section", "content"), [("plan", Plan), ("plan.tasks.0", PlannedTask)])
def test_an_unknown_key_inside_a_manifest_is_refused(section: str, content: type, tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "metaworld", lambda e: True, tasks=["reach-v3"], episodes=1)
    manifest = json.loads((run / "manifest.json").read_text())
    place = manifest["plan"] if content is Plan else manifest["plan"]["tasks"][0]
    place["colour"] = 1
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=rf"manifest\.json: {section}\.colour: unknown key"):
        read_manifest(run)
