"""Environments in which nothing works as usual: locales, closed descriptors, no home, no space, a jumping clock."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from evalkit.records.journal import read_journal
from evalkit.testing import canonical
from support.commands import CommandResult
from support.faults.trials import IDENTITY, Skip, Trial, left_behind, problem_of
from support.paths import POINTMASS, REPOSITORY

_NOBODY = 54_321  # a user id without an entry in the passwd file
_CLOCK = """
import datetime, itertools, time
true, count = time.time, itertools.count()
time.time = lambda: {time}
class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
import evalkit.records.manifest, evalkit.runner.resolve
evalkit.records.manifest.datetime = evalkit.runner.resolve.datetime = Clock
from evalkit.__main__ import main
main()
"""
_NOBODYS = """
import pwd
def unknown(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = unknown
from evalkit.__main__ import main
main()
"""
_GONE = 'mkdir -p "$FOLDER/gone"; cd "$FOLDER/gone"; rmdir "$FOLDER/gone"'
_SMALL = 'mkdir -p "$FOLDER/new" && mount -t tmpfs -o size={size} none "$FOLDER/new"'


_FEW = ["--split", "near", "--task", "left", "--episodes", "2", "--workers", "1", "--json", "--out"]


@dataclass(frozen=True)
class Surroundings:
    """The surroundings of a command.

    Attributes:
        kind: the row of the table.
        name: the surroundings, for people.
        variables: environment variables; None removes one.
        before: shell commands before the command; the folder is in ``$FOLDER``.
        redirections: of the shell.
        limits: resource limits.
        code: Python code that starts evalkit, in the place of ``-m evalkit``.
        user: the user id, for which this process must be root.
        nothing_shown: standard output is closed, so that nothing can be compared.
    """

    kind: str
    name: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    before: str = ""
    redirections: str = ""
    limits: Mapping[int, int] = field(default_factory=dict)
    code: str | None = None
    user: int | None = None
    nothing_shown: bool = False


def surroundings() -> list[Surroundings]:
    """Return all of them."""
    found = [
        Surroundings("locale", name, variables)
        for name, variables in {
            "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            "POSIX": {"LC_ALL": "POSIX", "LANG": "POSIX"},
            "one that does not exist": {"LC_ALL": "xx_YY.nothing", "LANG": "xx_YY.nothing"},
            "none": {"LC_ALL": None, "LANG": None, "LC_CTYPE": None},
            "ASCII": {"PYTHONIOENCODING": "ascii:strict"},
            "Latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
            "UTF-16": {"PYTHONIOENCODING": "utf-16"},
        }.items()
    ]
    for count in (1, 2, 3):
        for closed in itertools.combinations((0, 1, 2), count):
            signs = " ".join({0: "<&-", 1: ">&-", 2: "2>&-"}[number] for number in closed)
            found.append(Surroundings("closed descriptors", signs, redirections=signs, nothing_shown=1 in closed))
    found.append(
        Surroundings("closed descriptors", "full standard output", redirections=">/dev/full", nothing_shown=True)
    )
    found += [
        Surroundings("no home", "HOME unset, no passwd entry", {"HOME": None, "EVALKIT_HOME": None}, user=_NOBODY),
        Surroundings("no home", "no passwd entry", {"HOME": None, "EVALKIT_HOME": None}, code=_NOBODYS),
        Surroundings("no home", "HOME does not exist", {"HOME": "/nowhere", "EVALKIT_HOME": None}),
        Surroundings("no home", "HOME empty", {"HOME": "", "EVALKIT_HOME": None}),
        Surroundings("no home", "HOME is a file", {"HOME": "/etc/passwd", "EVALKIT_HOME": None}),
        Surroundings("no home", "EVALKIT_HOME is a device", {"EVALKIT_HOME": "/dev/null"}),
        Surroundings("no home", "EVALKIT_HOME of another user", {"EVALKIT_HOME": "~nobody-at-all/x"}),
    ]
    found += [
        Surroundings("read-only", "the run's folder", before='chmod -R a-w "$FOLDER"', user=_NOBODY),
        Surroundings("read-only", "nothing readable", before='chmod 000 "$FOLDER"/run', user=_NOBODY),
        Surroundings("read-only", "TMPDIR", {"TMPDIR": "/proc"}),
        Surroundings("read-only", "umask", before="umask 777"),
        Surroundings("read-only", "working folder removed", before=_GONE),
    ]  # fmt: skip
    found += [
        Surroundings("full disk", f"files of {size} bytes", limits={resource.RLIMIT_FSIZE: size})
        for size in (0, 100, 2_000, 4_000, 5_000, 6_000, 8_000)
    ]
    found += [
        Surroundings("full disk", f"a disk of {size}", before=_SMALL.format(size=size))
        for size in ("4k", "8k", "12k", "16k")
    ]  # fmt: skip
    found += [
        Surroundings("clock", name, code=_CLOCK.format(time=time))
        for name, time in {
            "stands still": "1.7e9",
            "runs backwards": "1.7e9 - 100 * next(count)",
            "jumps": "true() + (-1) ** next(count) * 86400",
            "1970": "0.0",
            "the year 9000": "2.2e11",
            "a day an instant": "1.7e9 + 86400 * next(count)",
        }.items()
    ]
    found += [
        Surroundings("clock", f"TZ={zone}", {"TZ": zone}) for zone in ("Nowhere/Nothing", ":", "UTC+25", "x" * 500)
    ]
    found += [
        Surroundings("little of it", "12 descriptors", limits={resource.RLIMIT_NOFILE: 12}),
        Surroundings("little of it", "30 descriptors", limits={resource.RLIMIT_NOFILE: 30}),
        Surroundings("little of it", "4 GB of addresses", limits={resource.RLIMIT_AS: 4 << 30}),
        Surroundings("little of it", "no PATH", {"PATH": ""}),
        *(Surroundings("little of it", f"COLUMNS={n}", {"COLUMNS": n}) for n in ("0", "-1", "x", "1", "99999")),
        Surroundings("little of it", "no TERM", {"TERM": "", "NO_COLOR": "1"}),
    ]
    return found


def trials(seed: int, count: int, folder: Path, run: Path) -> Iterator[Trial]:
    """Yield commands in every environment; ``run`` is a finished run of the point mass."""
    pairs = [(one, words) for words in ("run", "table", "gate", "list") for one in surroundings()]
    random.Random(seed).shuffle(pairs)
    for number, (one, words) in enumerate(pairs[:count]):
        name = f"{one.name}, {words}"
        yield Trial(f"environments: {one.kind}", name, partial(_run, folder, str(number), run, one, words))


def _run(folder: Path, number: str, run: Path, around: Surroundings, words: str) -> str | None:
    usual = _result(folder / "usual" / words, run, Surroundings("", ""), words)
    place = folder / number
    result = _result(place, run, around, words)
    subprocess.run(["chmod", "-R", "u+rwX", str(place)], check=False)
    problem = problem_of(result, usual.exit_code, 2)
    if problem is None and result.exit_code != 2:
        if around.nothing_shown and words == "run":
            journals = [read_journal(one / "new" / "run") for one in (place, folder / "usual" / words)]
            same = canonical(journals[0].values()) == canonical(journals[1].values())
        else:
            same = around.nothing_shown or _comparable(result, place) == _comparable(usual, folder / "usual" / words)
        problem = None if same else f"another result: {result.stdout[-200:]}"
    if problem and "2>" in around.redirections and result.exit_code == 2:
        return None  # nobody hears why
    return problem


def _comparable(result: CommandResult, place: Path) -> object:
    """Return a command's document without the folder, and without the state of other suites."""
    text = result.stdout.encode("utf-8", "surrogateescape").decode("utf-8-sig", "replace").replace(str(place), "")
    try:
        document = json.loads(text)
    except ValueError:
        return text
    return {name: value for name, value in document.items() if name not in ("suites", "runs", "execution_stats")}


def _result(place: Path, run: Path, around: Surroundings, words: str) -> CommandResult:
    if around.user is not None and os.geteuid() != 0:
        raise Skip("only root can become another user")
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    shutil.copytree(run, place / "run")
    identity, new, run = uuid.uuid4().hex, place / "new" / "run", place / "run"
    arguments = {
        "run": ["run", POINTMASS, *_FEW, str(new)],
        "table": ["table", str(run), "--format", "json"],
        "gate": ["gate", str(run), "--baseline", str(run), "--json", "--junit", str(place / "junit.xml")],
        "list": ["list", "--json", "--runs", str(place)],
    }[words]  # fmt: skip
    start = ["-c", around.code] if around.code else ["-m", "evalkit"]
    shell = f'{around.before or ":"} || exit 77; exec "$@" {around.redirections}'
    command = ["/bin/bash", "-c", shell, "bash", sys.executable, *start, *arguments]
    if "mount" in around.before:
        command = ["unshare", "-m", *command]
    environment = {
        **os.environ,
        IDENTITY: identity,
        "FOLDER": str(place),
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "120",
    }
    environment = {**environment, **{k: v for k, v in around.variables.items() if v is not None}}
    for name in (name for name, value in around.variables.items() if value is None):
        environment.pop(name, None)
    if around.user is not None:
        subprocess.run(["chown", "-R", str(around.user), str(place)], check=True)
    try:
        ended = subprocess.run(
            command, capture_output=True, env=environment, cwd=place, timeout=60, user=around.user,
            preexec_fn=_limiting(around.limits), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (PermissionError, FileNotFoundError) as error:
        raise Skip(f"{around.name}: {error}") from error
    except subprocess.TimeoutExpired:
        return CommandResult(1, "", "hangs: more than 60 s")
    if ended.returncode in (77, 126) or b"No module named" in ended.stderr or b"can't open file" in ended.stderr:
        raise Skip(f"{around.name}: {ended.stderr.decode(errors='replace').strip()[-100:]}")
    if left := left_behind(identity):
        return CommandResult(1, "", f"{len(left)} processes left behind")
    encoding = "utf-16" if "utf-16" in str(around.variables) else "utf-8"
    out, err = (text.decode(encoding, "replace") for text in (ended.stdout, ended.stderr))
    if words == "gate" and ended.returncode == 2 and '"verdict"' in out:
        out = ""
    return CommandResult(ended.returncode, out, err)


def _limiting(limits: Mapping[int, int]) -> Callable[[], None] | None:
    if not limits:
        return None

    def limit() -> None:
        for kind, most in limits.items():
            resource.setrlimit(kind, (most, most))

    return limit
