"""Hostile suites and checkpoints: files that people write, as somebody else might write them."""

from __future__ import annotations

import itertools
import json
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from support.faults.files import hostile_files
from support.faults.trials import Trial, command, problem_of, time_limit
from support.paths import POINTMASS

_ALPHABET = "abcdefghijklmnopqrstuvw"


def laughs(width: int, kind: Callable[[list[str]], str]) -> str:
    """Return YAML of a few hundred bytes that stands for width ** 22 values."""
    lines = ["a: &a [x]"]
    lines += [f"{b}: &{b} {kind([f'*{a}'] * width)}" for a, b in itertools.pairwise(_ALPHABET)]
    return "\n".join(lines)


TEXTS = {
    "billion laughs, lists": laughs(10, lambda parts: f"[{', '.join(parts)}]"),
    "billion laughs, mappings": laughs(9, lambda parts: str(dict(enumerate(parts))).replace("'", "")),
    "merge bomb": "a: &a {x: 1}\n" + "\n".join(
        f"{b}: &{b} {{y{b}: {{<<: [*{a}, *{a}, *{a}, *{a}]}}, z: *{a}}}"
        for a, b in itertools.pairwise(_ALPHABET)
    ),
    "deep lists": "a: " + "[" * 50_000,
    "deep mappings": "a: " + "{b: " * 2_000 + "}" * 2_000,
    "deep blocks": "\n".join(" " * n + "a:" for n in range(900)),
    "just too deep": "a: " + "[" * 70 + "]" * 70,
    "a list in itself": "name: &a [*a]",
    "a mapping in itself": "splits: &a {near: *a}",
    "a merge of itself": "name: &a {<<: *a}",
    "digits": "seed: " + "9" * 5_000,
    "a few digits too many": "seed: " + "9" * 40,
    "hexadecimal digits": "seed: 0x" + "f" * 5_000,
    "sixties": "seed: " + ":".join(["59"] * 900),
    "a list as key": "? [a, b]\n: c",
    "a mapping as key": "? {a: b}\n: c",
    "bytes": "name: !!binary aGVsbG8=",
    "bytes as key": "!!binary aGVsbG8=: c",
    "a set": "splits: !!set {near, far}",
    "pairs": "splits: !!omap [near: 1]",
    "an object": "name: !!python/object/apply:os.system [touch pwned]",
    "a module": "name: !!python/name:os.system",
    "an own tag": "name: !suite pointmass",
    "a wrong integer": "seed: !!int three",
    "an empty integer": 'seed: !!int ""',
    "a wrong truth": "name: !!bool maybe",
    "no such day": "name: 2026-02-31",
    "a day": "name: 2026-02-28",
    "half a surrogate pair": 'name: "\\ud83d"',
    "a null character": 'name: "a\\0b"',
    "a control character": "name: a\x07b",
    "two documents": "name: a\n---\nname: b",
    "no document": "",
    "a comment": "# nothing",
    "a list": "- name",
    "a text": "name",
    "a key twice": "name: a\nname: b",
    "a number twice": "1: a\n1.0: b",
    "an unknown alias": "name: *nowhere",
    "an anchor twice": "name: &a b\ntitle: &a c",
    "a tab": "name:\n\t- a",
    "another version": "%YAML 3.0\n---\nname: a",
    "100,000 keys": "\n".join(f"k{n}: {n}" for n in range(60_000)),
    "a megabyte and more": "name: " + "x" * 1_100_000,
    "a key of a megabyte": "x" * 900_000 + ": 1",
    "a wrong quote": "name: 'a",
    "only braces": "{" * 1_000,
}  # fmt: skip
VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        0.5,
        99_999_999_999,
        2**63 - 1,
        float("inf"),
        float("nan"),
        "",
        " ",
        "x" * 5_000,
        "a/b",
        "..",
        "\n",
    ),
    *(
        "\x1b[31mred",
        [],
        {},
        [[]],
        [None],
        {"a": None},
        {1: 2},
        {"": ""},
        ["x"] * 50_000,
        {"../x": {"tasks": {"a": "b"}}},
    ),
]


def changed(content: Any, chance: random.Random) -> Any:
    """Return a copy of a document with one value replaced, removed or added."""
    copy = json.loads(json.dumps(content))
    place, key = chance.choice(list(_places(copy)))
    action = chance.random()
    if action < 0.8:
        place[key] = chance.choice(VALUES)
    elif action < 0.9:
        del place[key]
    elif isinstance(place, dict):
        place[f"{key}x"] = place[key]
    return copy


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []:
        yield value, key
        yield from _places(value[key])


def trials(seed: int, count: int, folder: Path) -> Iterator[Trial]:
    """Yield hostile files: those of a kind first, then changes of good ones at random."""
    chance = random.Random(seed)
    things = hostile_files(folder / "files")
    made = [
        *(("suite.yaml", name, text) for name, text in TEXTS.items()),
        *(("tasks.yaml", name, text) for name, text in list(TEXTS.items())[:12]),
        *(("checkpoints.yaml", name, text) for name, text in TEXTS.items()),
        *(
            (file, name, path)
            for name, path in things.items()
            for file in ("suite.yaml", "checkpoints.yaml", "config.json")
        ),
        *(("trace.json", name, path) for name, path in things.items()),
        *(("config.json", name, text) for name, text in _configs().items()),
    ]
    chance.shuffle(made)
    protocol = yaml.safe_load((Path(POINTMASS) / "suite.yaml").read_text())
    own = {"summary": "s", "policy": "evalkit.policies.scripted:Zero", "suites": ["pointmass"], "chunk": 5}
    listing = {"checkpoints": {"own": {**own, "parameters": {"cameras": "none"}, "splits": {"pointmass": ["near"]}}}}
    while len(made) < count:
        kind, good = chance.choice([("suite.yaml", protocol), ("checkpoints.yaml", listing)])
        made.append((kind, "a changed value", yaml.safe_dump(changed(good, chance), allow_unicode=True)))
    for number, (kind, name, content) in enumerate(made[:count]):
        place = folder / str(number)
        yield Trial("hostile suites and checkpoints", f"{kind}: {name}", partial(_run, place, kind, name, content))


def _configs() -> dict[str, str]:
    deep = "[" * 100_000 + "]" * 100_000
    return {
        "deep": f'{{"model_type": {deep}}}',
        "a list as type": '{"model_type": ["mibot"]}',
        "a number as type": '{"model_type": 1}',
        "digits": '{"model_type": ' + "9" * 5_000 + "}",
        "a list": "[]",
        "a long type": '{"model_type": "' + "\\u001b[31m" * 10_000 + '"}',
        "a type twice": '{"model_type": "mibot", "model_type": "other"}',
        "no weights": '{"model_type": "mibot"}',
        "code elsewhere": '{"model_type": "mibot", "auto_map": {"AutoModel": "/etc--x.Y"}}',
        "code above": '{"model_type": "mibot", "auto_map": {"AutoModel": "../x.Y"}}',
        "no such code": '{"model_type": "mibot", "auto_map": {"AutoModel": "x.Y"}}',
        "a number as code": '{"model_type": "mibot", "auto_map": 5}',
    }


def _run(place: Path, kind: str, name: str, content: str | Path) -> str | None:
    place.mkdir(parents=True)
    target = place / kind
    if kind in ("suite.yaml", "tasks.yaml"):
        shutil.rmtree(place)
        shutil.copytree(POINTMASS, place)
        target.unlink()
    if isinstance(content, Path):
        target.symlink_to(content)
    else:
        target.write_text(content, encoding="utf-8", errors="surrogatepass")
    arguments: dict[str, list[object]] = {
        "suite.yaml": ["run", place, "--episodes", "1", "--task", "left", "--workers", "1", "--out", place / "run"],
        "tasks.yaml": ["setup", place],
        "checkpoints.yaml": ["run", POINTMASS, "--checkpoint-file", target, "--checkpoint", "own", "--episodes", "1",
                             "--task", "left", "--workers", "1", "--out", place / "run"],
        "config.json": ["run", POINTMASS, "--checkpoint", place, "--out", place / "run"],
        "trace.json": ["run", POINTMASS, "--execution", "hold", "--delay", f"trace:{target}", "--out", place / "run"],
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = command(*arguments[kind])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if (place / "pwned").exists() or Path("pwned").exists():
        return "its code ran"
    if grown > 500_000:
        return f"took {grown // 1000} MB"
    with time_limit(20):
        shutil.rmtree(place)
    return problem_of(result, 0, 2) if name == "a changed value" else problem_of(result, 2)
