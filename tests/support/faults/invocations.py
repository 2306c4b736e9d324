"""Bad invocations, generated from the tree of commands itself."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from evalkit.cli import app
from support.faults.files import hostile_files
from support.faults.trials import Trial, command, problem_of, working_folder
from support.paths import POINTMASS

ONE_EPISODE = ["--split", "near", "--task", "left", "--episodes", "1", "--workers", "1"]
VALUES = [
    *("", " ", "-", "--", "-1", "0", "1", "99999999999", "9" * 5000, "-9e99", "nan", "inf", "1e999", "0x10", "1_000"),
    *("None", "null", "true", "[", "{a: 1}", "*a", "&a [*a]", "!!binary aGk=", "a=b", ":", ",", "::,,==", "oracle:"),
    *("oracle:chunk=99999999999", "oracle:chunk=" + "9" * 5000, "oracle:chunk=[1", "oracle:=1", "oracle:noise=nan"),
    *("remote:url=", "remote:url=http://", "zero:cameras=" + "x" * 5000, "trace:", "trace:/dev/zero", "normal:1:1ms"),
    *("9" * 400 + "ms", "normal:1e9:1ms", "rtc:quantile=nan", "rtc:quantile", "prefix:=", "naive:x=1", "sync:decay=1"),
    *(".", "..", "/", "~", "~nobody/x", "/dev/null", "/dev/zero", "/proc/self/mem", "x" * 300, "x/" * 3000, "a\nb"),
    *("\x1b[31mred", "\u202etxt", "é漢", "\udcff", "%s%n", "{}", "*", "$(ls)", "🤖" * 200, "left", "near", "pointmass"),
]  # fmt: skip
Invocation = tuple[str, list[str]]


def bases(run: Path, logs: Path, port: int) -> dict[str, list[str]]:
    """Return arguments by command with which it would end well and soon, given a finished run and a result file."""
    return {
        "list": ["suites"],
        "setup": [POINTMASS],
        "doctor": [POINTMASS],
        "run": [POINTMASS, *ONE_EPISODE],
        "table": [str(run)],
        "serve": ["--checkpoint", "zero", "--suite", POINTMASS, "--port", str(port)],
        "sweep": [POINTMASS, *ONE_EPISODE, "--delay", "0", "--execution", "hold"],
        "timeline": [str(run)],
        "compare": [str(run), str(run)],
        "gate": [str(run), "--baseline", str(run)],
        "plan": ["--rate", "0.9", "--drop", "0.2"],
        "import": ["lerobot", str(logs), "--out", "imported"],
        "bench": [POINTMASS, "--episodes", "2", "--workers", "1"],
        "baseline accept": [str(run), "--reason", "good", "--name", "good"],
        "baseline list": [],
    }


def commands() -> dict[str, Any]:
    """Return every command of the tree by its words."""
    found: dict[str, Any] = {}
    pending = [("", typer.main.get_command(app))]
    while pending:
        words, one = pending.pop()
        inner: Mapping[str, Any] = getattr(one, "commands", {})
        pending += [(f"{words} {name}".strip(), part) for name, part in inner.items()]
        if not inner:
            found[words] = one
    return dict(sorted(found.items()))


def invocations(
    base: Mapping[str, Sequence[str]], values: Sequence[str], chance: random.Random
) -> Iterator[Invocation]:
    """Yield bad invocations without an end: each command's systematic ones first, then options and values at random."""
    tree = commands()
    assert tree.keys() == base.keys(), "a command has no arguments here"
    systematic = []
    for words, one in tree.items():
        options = [p for p in one.params if p.param_type_name == "option"]
        systematic += [(words, [])] if any(p.required for p in one.params) else []
        systematic += [(words, ["--no-such-option"]), (words, [*base[words], "one", "more"])]
        systematic += [(words, [*base[words], *["x"] * 1000])]
        for option in options:
            name = option.opts[0]
            systematic.append((words, [*base[words], f"{name}=value" if option.is_flag else name]))
            systematic.append((words, [*base[words], name[:-1]]))
    chance.shuffle(systematic)
    yield from systematic
    while True:
        words = chance.choice(list(tree))
        given = list(base[words])
        options = [p for p in tree[words].params if p.param_type_name == "option" and not p.is_flag]
        positions = [n for n, argument in enumerate(given) if not argument.startswith("--")]
        for _ in range(chance.choice((1, 1, 1, 2))):
            if positions and (not options or chance.random() < 0.25):
                given[chance.choice(positions)] = chance.choice(values)
            elif options:
                given += [chance.choice(options).opts[0], chance.choice(values)]
        yield words, given


def trials(seed: int, count: int, folder: Path, run: Path, logs: Path, light: bool = False) -> Iterator[Trial]:
    """Yield bad invocations; with ``light``, none of the commands that start simulators."""
    chance = random.Random(seed)
    occupied = socket.create_server(("127.0.0.1", 0))
    base = bases(run, logs, occupied.getsockname()[1])
    values = [*VALUES, *(str(path) for path in hostile_files(folder / "files").values())]
    made = 0
    for words, arguments in invocations(base, values, chance):
        if light and words in ("run", "sweep", "bench", "serve", "gate") and len(arguments) > 1:
            continue
        name = " ".join([words, *(a if len(a) < 40 else f"{a[:37]}..." for a in arguments)])
        yield Trial("bad invocations", ascii(name[:200]), partial(_run, folder / "work" / str(made), words, arguments))
        made += 1
        if made == count:
            break
    occupied.close()


def _run(folder: Path, words: str, arguments: Sequence[str]) -> str | None:
    codes = (0, 1, 2, 3) if words == "gate" else (0, 2)
    with working_folder(folder):
        result = command(*words.split(), *arguments, seconds=4 if words == "serve" else 60)
    if words == "doctor" and result.exit_code == 2 and not result.stderr:
        return None  # the table says what is missing
    if words == "serve" and "hangs" in result.stderr:
        return None  # it serves
    return problem_of(result, *codes)
