"""The fingerprint: every rule of the protocol is in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke, refused
from support.made_up import made_up
from support.marks import slow
from support.paths import POINTMASS, RELAY, REPOSITORY
from support.processes import files_limited_to
from support.runs import seal

import evalkit
from evalkit.analysis.compare import compare
from evalkit.analysis.summary import summarize
from evalkit.errors import EvalkitError, RunExists, UsageError
from evalkit.experiments.baselines import accept, find_baseline
from evalkit.experiments.gate import Gate, GateOptions
from evalkit.records.frame import read_frame
from evalkit.records.journal import read_journal
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
    seal(run, manifest)
    with pytest.raises(UsageError, match=rf"manifest\.json: {section}\.colour: unknown key"):
        read_manifest(run)


# A manifest that was changed after it was written.


def edit(run: Path, field: str, value: Any) -> None:
    """Change a manifest's field, as with an editor."""
    manifest = json.loads((run / "manifest.json").read_text())
    *path, last = field.split(".")
    place = manifest
    for part in path:
        place = place[part]
    place[last] = value
    (run / "manifest.json").write_text(json.dumps(manifest, indent=1))


EDITS: list[tuple[str, Any, str]] = [
    ("suite.chain", 5, "fingerprint.protocol is not the digest of suite"),
    ("suite.splits.near.max_steps", 31, "fingerprint.protocol is not the digest of suite"),
    ("fingerprint.protocol", "0" * 64, "fingerprint.protocol is not the digest of suite"),
    ("suite.headline.mean_of", "tasks", "was changed after it was written"),
    ("suite.headline.splits", ["near"], "was changed after it was written"),
    ("suite.episodes", 2, "was changed after it was written"),
    ("suite.title", "Another", "was changed after it was written"),
    ("plan.seed", 4, "was changed after it was written"),
    ("checkpoint.id", "another", "was changed after it was written"),
    ("execution.horizon", 9, "was changed after it was written"),
    ("incomparable", ["because"], "was changed after it was written"),
    ("machine", {"platform": "another"}, "was changed after it was written"),
]


@pytest.mark.parametrize(("field", "value", "message"), EDITS)
def test_an_edited_manifest_is_refused_by_every_reader(tmp_path: Path, field: str, value: Any, message: str) -> None:
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2)
    edit(run, field, value)
    readers: list[Callable[[], Any]] = [
        lambda: read_manifest(run),
        lambda: read_journal(run),
        lambda: read_frame(run),
        lambda: summarize(run),
        lambda: evalkit.read_episodes(run),
        lambda: compare(run, run),
        lambda: find_baseline(str(run)),
        lambda: Gate(GateOptions(run), lambda forecast: None),
        lambda: accept(run, "a reason", lambda summary: "", folder=tmp_path / "baselines"),
    ]
    for read in readers:
        with pytest.raises(UsageError, match=rf"manifest\.json: .*{message}"):
            read()
    (listed,) = json.loads(invoke("list", "runs", "--runs", tmp_path, "--json").stdout)["runs"]
    assert message in listed["problem"]


def test_a_manifest_of_an_earlier_version_is_held_to_its_protocol(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2)
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["sha256"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(run).sha256 is None and len(read_frame(run)) == 8
    edit(run, "suite.chain", 5)
    with pytest.raises(UsageError, match="protocol is not the digest of suite"):
        read_manifest(run)


def test_the_committed_baseline_and_other_forms_of_one_content_are_read(tmp_path: Path) -> None:
    baseline = read_manifest(REPOSITORY / "results" / "baselines" / "metaworld-oracle")
    assert baseline.plan.size == 200
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(dict(reversed(manifest.items()))))
    assert read_manifest(run).sha256 == manifest["sha256"]
    baseline.write(tmp_path)
    assert read_manifest(tmp_path).model_dump(exclude={"sha256"}) == baseline.model_dump(exclude={"sha256"})


def test_an_imported_runs_protocol_may_be_in_words(tmp_path: Path) -> None:
    origin = {"format": "x", "source": "elsewhere", "files": {}, "missing_fields": []}
    other: dict[str, Any] = {"origin": origin, "fingerprint": {"protocol": "unknown: not in the file"}}
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, manifest=other, episodes=2)
    assert read_manifest(run).fingerprint["protocol"] == "unknown: not in the file"
    edit(run, "suite.headline.mean_of", "tasks")
    with pytest.raises(UsageError, match="was changed after it was written"):
        read_manifest(run)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fingerprint.suite", 7, "fingerprint.suite: must be a valid string"),
        ("fingerprint.protocol", None, "fingerprint.protocol: must be a valid string"),
        ("checkpoint.id", {}, "checkpoint.id: must be a valid string"),
        ("checkpoint.metadata", [], "checkpoint.metadata: must be a valid dictionary"),
        ("checkpoint.observation_spec", {"cameras": 1}, "checkpoint.observation_spec.cameras: must be a valid list"),
        ("execution.horizon", "ten", "execution.horizon: must be a valid integer"),
        ("execution.horizon", True, "execution.horizon: must be a valid integer"),
        ("execution.delay", {"steps": "x"}, "execution.delay: not a delay"),
        ("execution.delay", {"milliseconds": ["x"]}, "execution.delay: not a delay"),
        ("suite.chain", "3", "suite.chain: must be a valid integer"),
        ("suite.splits", [], "suite.splits: must be a valid dictionary"),
        ("suite.splits.near.tasks", ["left"], "suite.splits.near.tasks: must be a valid dictionary"),
        ("suite.splits.near.max_steps", 0, "suite.splits.near.max_steps: must be greater than 0"),
        ("suite.headline.splits", ["moon"], "suite: headline.splits: there is no split 'moon'"),
        ("suite.control_hz", "fast", "suite.control_hz: must be a valid number"),
        ("plan.tasks", [], "plan.tasks: "),
        ("plan.tasks", [{"split": "near", "task": "up", "scenes": 1, "repeats": 1}], "suite has no task near/up"),
        ("plan.tasks", 2 * [{"split": "near", "task": "left", "scenes": 1, "repeats": 1}], "must be named once"),
        ("plan.tasks", [{"split": "near", "task": "left", "scenes": 10**9, "repeats": 1}], "more than a run can have"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2)
    edit(run, field, value)
    shown = refused(invoke("table", run))
    assert "manifest.json: " in shown and message in shown


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1,', '"format": 1, "format": 1,', "key 'format' appears twice"),
        ('"code": {}', '"code": {"x": "a", "x": "b"}', "key 'x' appears twice"),
        ('"format": 1,', '"format": NaN,', "NaN is not a finite number"),
        (
            '"metadata": {}',
            '"metadata": ' + '{"a":' * 300 + "1" + "}" * 300,
            "has more than 64 mappings and lists within each other",
        ),
        ('"metadata": {}', '"metadata": ' + '{"a":' * 90000 + "1" + "}" * 90000, "more than 64 mappings and lists"),
        ('"title": "', '"title": "\\ud800', "is not Unicode"),
    ],
)
def test_json_that_could_be_read_in_two_ways_or_not_at_all_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    checkpoint = {"checkpoint": {"id": "made-up", "metadata": {}}}
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, manifest=checkpoint, episodes=2)
    text = (run / "manifest.json").read_text()
    assert old in text
    (run / "manifest.json").write_text(text.replace(old, new))
    assert message in refused(invoke("table", run))


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    manifest = read_manifest(made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2))
    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "other").mkdir()
    manifest.write(tmp_path / "other")
    assert read_manifest(tmp_path / "other") == manifest
    with pytest.raises(RunExists, match="holds a run already"):
        manifest.write(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]


def test_a_full_disk_is_named_by_its_file_and_leaves_no_draft(tmp_path: Path) -> None:
    manifest = read_manifest(made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2))
    (tmp_path / "other").mkdir()
    with (
        files_limited_to(100),
        pytest.raises(EvalkitError, match=r"manifest\.json: cannot be written: File too large"),
    ):
        manifest.write(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_an_identity_that_is_no_json_is_refused(tmp_path: Path) -> None:
    manifest = read_manifest(made_up(tmp_path / "run", POINTMASS, lambda e: True, episodes=2))
    (tmp_path / "other").mkdir()
    odd = manifest.model_copy(update={"checkpoint": {"id": "x", "metadata": {"x": object()}}})
    with pytest.raises(UsageError, match="the run's identity is not JSON"):
        odd.write(tmp_path / "other")
