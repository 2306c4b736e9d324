"""Damaged journals and manifests, under every command that reads a run.

A command must refuse a damaged run in one line, or give what it gives for the undamaged one. A journal without its last
records is that of an interrupted run, so the result for a clean journal of the remaining records is right too.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from support.commands import CommandResult
from support.faults.documents import changed
from support.faults.trials import Trial, command, problem_of
from support.paths import POINTMASS

FAST = ("table", "compare", "gate", "list", "timeline", "accept")
COMMANDS = (*FAST, "resume")
LARGE = "@" * 8  # in the place of a value that json.dumps cannot write
WRONG: dict[str, list[Any]] = {
    "id": [None, 1, "", "pointmass/near/left/0/s3/r1", ["a"], "x" * 100_000],
    "episode": [None, [], "near", {}],
    "episode.suite": [None, 1, "", "elsewhere", ["a"]],
    "episode.split": [None, 1, "nowhere", "cursed"],
    "episode.task": [None, 1, "nowhere", {"a": 1}, "\ud83d"],
    "episode.scene": [None, -1, 10**6, 2**70, 0.0, True, "0", LARGE],
    "episode.seed": [None, -1, 4, True, "3", 3.0],
    "episode.repeat": [None, -1, 1, True, "0", 0.0],
    "success": [None, 1, 0, "true", [], {}],
    "steps": [-1, True, 1.5, "12", [], 10**6, 2**70, LARGE],
    "inferences": [-1, True, 1.5, "2", [], LARGE],
    "clipped_steps": [-1, True, 1.5, "0", {}],
    "metrics": [None, [], "x", {"d": "1"}, {"d": None}, {"d": True}, {"distance": [1]}, {"d": LARGE}],
    "subtasks": [None, {}, "x", [1], [["a"]], [["a", 1]], [["a", None]], [[1, True]]],
    "execution_stats": [None, [], {"action_age_mean": "1"}, {"action_age_mean": {}}, {"idle_steps": LARGE}],
    "timeline": [1, "x", [], {"requests": 1}, {"requests": [[0]], "segments": []}],
    "digest": [1, [], {}, True],
    "error": ["x", [], {}, {"kind": "crash"}, {"message": "x"}, {"kind": 1, "message": "x"}],
    "host": [1, "x", []],
}  # fmt: skip
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5_000, "0x10", "01", "+1", "[" * 100_000]


@dataclass(frozen=True)
class Damage:
    """A damaged run.

    Attributes:
        name: the damage, for people.
        journal: the damaged journal; None if it is whole.
        manifest: the damaged manifest; None if it is whole.
        kept: a clean journal whose results are right too; None if only those of the whole one are.
        make: puts something else in the place of the journal or the manifest.
    """

    name: str
    journal: bytes | None = None
    manifest: bytes | None = None
    kept: bytes | None = None
    make: Callable[[Path], None] | None = None


class Bench:
    """A run that is damaged and restored, and the results of every command on its clean forms."""

    def __init__(self, folder: Path, run: Path) -> None:
        """Copy ``run`` into ``folder``."""
        self.folder, self._whole = folder, folder / "whole"
        self.run = folder / "runs" / "run"
        for place in (self._whole, folder / "other"):
            shutil.copytree(run, place, ignore=shutil.ignore_patterns("videos"))
        self.journal, self.manifest = ((run / name).read_bytes() for name in ("journal.jsonl", "manifest.json"))
        self._results: dict[tuple[str, bytes], tuple[int, str]] = {}

    def check(self, words: str, damage: Damage) -> str | None:
        """Return the way in which a command fails on a damaged run, or None."""
        right = {self._right(words, self.journal)}
        if damage.kept is not None:
            right.add(self._right(words, damage.kept))
        self._restore()
        if damage.journal is not None:
            (self.run / "journal.jsonl").write_bytes(damage.journal)
        if damage.manifest is not None:
            (self.run / "manifest.json").write_bytes(damage.manifest)
        if damage.make is not None:
            damage.make(self.run)
        result = self._command(words)
        problem = problem_of(result, *({0, 1, 2, 3} if words == "gate" else {0, 2}))
        if problem:
            return problem
        if result.exit_code == 2 or self._is_listed_as_damaged(words, result):
            untouched = damage.journal is None or (self.run / "journal.jsonl").read_bytes() == damage.journal
            return None if untouched else "refused, and the journal was changed"
        if self._outcome(words, result) in right:
            return None
        return f"other numbers, in silence: {result.stdout[-200:]!r}"

    def _right(self, words: str, journal: bytes) -> tuple[int, str]:
        if (words, journal) not in self._results:
            self._restore()
            (self.run / "journal.jsonl").write_bytes(journal)
            self._results[words, journal] = self._outcome(words, self._command(words))
        return self._results[words, journal]

    def _restore(self) -> None:
        if self.run.exists():
            shutil.rmtree(self.run)
        shutil.copytree(self._whole, self.run)
        shutil.rmtree(self.folder / "baselines", ignore_errors=True)

    def _command(self, words: str) -> CommandResult:
        run, other = self.run, self.folder / "other"
        arguments: dict[str, Sequence[object]] = {
            "table": ["table", run, "--format", "json"],
            "compare": ["compare", other, run, "--json"],
            "gate": ["gate", run, "--baseline", other, "--json"],
            "list": ["list", "runs", "--runs", run.parent, "--json"],
            "timeline": ["timeline", run],
            "accept": ["baseline", "accept", run, "--reason", "good", "--name", "b",
                       "--baselines", self.folder / "baselines"],
            "resume": ["run", POINTMASS, "--checkpoint", "oracle-noisy:noise=1.5", "--resume", "--out", run, "--json",
                       "--workers", "1"],
        }  # fmt: skip
        result = command(*arguments[words], seconds=30)
        if words in ("gate", "compare") and result.exit_code == 2 and '"verdict"' in result.stdout:
            return CommandResult(2, "", result.stderr)  # the document that says why there is none
        return result

    def _outcome(self, words: str, result: CommandResult) -> tuple[int, str]:
        accepted = self.folder / "baselines" / "b" / "journal.jsonl"
        text = accepted.read_text() if words == "accept" and accepted.exists() else result.stdout
        return result.exit_code, text

    @staticmethod
    def _is_listed_as_damaged(words: str, result: CommandResult) -> bool:
        if words != "list":
            return False
        rows = json.loads(result.stdout)["runs"]
        return not rows or "problem" in rows[0]


def damages(journal: bytes, manifest: bytes, chance: random.Random) -> Iterator[Damage]:
    """Yield damages without an end: one of each kind first."""
    kinds = [*_of_values(journal, chance), *_of_lines(journal, chance), *_of_bytes(journal, chance), *_of_places()]
    kinds += [Damage("manifest: torn", manifest=manifest[: chance.randrange(1, len(manifest))]) for _ in range(5)]
    kinds += [Damage(f"manifest: {n[:20]}", manifest=manifest.replace(b'"format": 1', b'"format": ' + n.encode()))
              for n in NUMBERS]  # fmt: skip
    kinds += [Damage("manifest: metadata 300 deep", manifest=_with_metadata(manifest, _nested(300)))]
    kinds += [Damage("manifest: metadata 100,000 deep", manifest=_with_metadata(manifest, LARGE).replace(
        f'"{LARGE}"'.encode(), b"[" * 100_000 + b"]" * 100_000))]  # fmt: skip
    chance.shuffle(kinds)
    yield from kinds
    content = json.loads(manifest)
    while True:
        yield Damage("manifest: a changed value", manifest=json.dumps(changed(content, chance)).encode())


def _of_values(journal: bytes, chance: random.Random) -> Iterator[Damage]:
    lines = journal.splitlines()
    for field, values in WRONG.items():
        for value in values:
            number = chance.randrange(len(lines))
            record = json.loads(lines[number])
            *path, last = field.split(".")
            place = record[path[0]] if path else record
            if last in place and place[last] == value and type(place[last]) is type(value):
                continue
            place[last] = copy.deepcopy(value)
            text = json.dumps(record, separators=(",", ":")).replace(f'"{LARGE}"', "9" * 5_000).encode()
            yield Damage(f"{field} is {str(value)[:30]!a}", _with_line(lines, number, text))
    for name in json.loads(lines[0]):
        number = chance.randrange(len(lines))
        record = json.loads(lines[number])
        del record[name]
        yield Damage(f"no {name}", _with_line(lines, number, json.dumps(record, separators=(",", ":")).encode()))
    for text in NUMBERS:
        number = chance.randrange(len(lines))
        steps = json.loads(lines[number])["steps"]
        yield Damage(f"steps is {text[:20]}", _with_line(lines, number, lines[number].replace(
            f'"steps":{steps}'.encode(), f'"steps":{text}'.encode())))  # fmt: skip


def _of_lines(journal: bytes, chance: random.Random) -> Iterator[Damage]:
    lines = journal.splitlines()
    for number in (0, len(lines) // 2, len(lines) - 1):
        line = lines[number]
        flipped = line.replace(b'"success":true', b'"success":FALSE').replace(b'"success":false', b'"success":true')
        flipped = flipped.replace(b"FALSE", b"false")
        rest = _joined([*lines[:number], *lines[number + 1 :]])
        yield Damage("contradicted later", journal + flipped + b"\n")
        yield Damage("contradicted before", flipped + b"\n" + journal)
        yield Damage(
            "a success twice", _with_line(lines, number, line.replace(b'"success":', b'"success":false,"success":'))
        )
        yield Damage("an id twice", _with_line(lines, number, line.replace(b'{"id":', b'{"id":"x","id":')))
        yield Damage("an unknown key", _with_line(lines, number, line[:-1] + b',"more":1}'))
        yield Damage("a blank line", _joined([*lines[:number], b"", *lines[number:]]))
        yield Damage("garbage", _joined([*lines[:number], chance.randbytes(80).replace(b"\n", b""), *lines[number:]]))
        yield Damage("a line of nulls", _joined([*lines[:number], bytes(4096), *lines[number:]]))
        yield Damage("a line cut in the middle", _with_line(lines, number, line[: len(line) // 2]), kept=rest)
        yield Damage("two lines in one", _joined(lines).replace(line + b"\n", line, 1), kept=_joined(lines[:-1]))
        yield Damage("a line twice", _joined([*lines[: number + 1], line, *lines[number + 1 :]]))
        yield Damage("a lost line", rest, kept=rest)
        yield Damage("a list of one", _with_line(lines, number, b"[" + line + b"]"))
        yield Damage("text after it", _with_line(lines, number, line + b" x"))
        for cut in (1, len(line) // 2, len(line) - 1):
            kept = _joined(lines[:number])
            yield Damage("torn", kept + line[:cut], kept=kept)
    yield Damage("only spaces", b" " * 1000)
    yield Damage("empty", b"", kept=b"")
    yield Damage("one line of 50 MB", b'{"id":"' + b"x" * 50_000_000 + b'"}\n' + journal)


def _of_bytes(journal: bytes, chance: random.Random) -> Iterator[Damage]:
    yield Damage("line ends of another system", journal.replace(b"\n", b"\r\n"))
    yield Damage("line ends of an old system", journal.replace(b"\n", b"\r"))
    for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig"):
        yield Damage(f"in {name}", journal.decode().encode(name))
    yield Damage("compressed", b"\x1f\x8b" + chance.randbytes(len(journal)))
    for _ in range(20):
        damaged = bytearray(journal)
        for _ in range(chance.choice((1, 1, 8, 100))):
            damaged[chance.randrange(len(journal) - 1)] = chance.choice((0, 1, 0x1F, 0x80, 0xC0, 0xFF))
        yield Damage("wrong bytes", bytes(damaged))
    for _ in range(5):
        start = chance.randrange(len(journal) - 600)
        yield Damage("a hole", journal[:start] + bytes(512) + journal[start + 512 :])
    for _ in range(5):
        cut = chance.randrange(1, len(journal) - 1)
        kept = journal[: journal[:cut].rfind(b"\n") + 1]
        yield Damage("truncated", journal[:cut], kept=kept)


def _of_places() -> Iterator[Damage]:
    for name in ("journal.jsonl", "manifest.json"):
        yield Damage(f"no {name}", make=partial(_remove, name=name), kept=b"" if name[0] == "j" else None)
        for kind, make in _THINGS.items():
            kept = b"" if (name, kind) == ("journal.jsonl", "a loop") else None  # there is no file
            yield Damage(f"{name} is {kind}", make=partial(_put, name=name, make=make), kept=kept)


def _remove(run: Path, name: str) -> None:
    (run / name).unlink()


def _put(run: Path, name: str, make: Callable[[Path], object]) -> None:
    (run / name).unlink()
    make(run / name)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 30)


_THINGS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to(path),
    "of gigabytes": _sparse,
}


def _with_line(lines: Sequence[bytes], number: int, line: bytes) -> bytes:
    return _joined([*lines[:number], line, *lines[number + 1 :]])


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def _with_metadata(manifest: bytes, metadata: Any) -> bytes:
    content = json.loads(manifest)
    content["checkpoint"]["metadata"] = {"deep": metadata}
    return json.dumps(content).encode()


def trials(seed: int, count: int, folder: Path, run: Path, commands: Sequence[str] = COMMANDS) -> Iterator[Trial]:
    """Yield ``count`` damaged runs under each of ``commands``; ``run`` is one of ``oracle-noisy:noise=1.5``."""
    chance = random.Random(seed)
    bench = Bench(folder, run)
    for number, damage in enumerate(damages(bench.journal, bench.manifest, chance)):
        if number == count:
            return
        for words in commands:
            yield Trial(f"damaged runs: {words}", damage.name, partial(bench.check, words, damage))
