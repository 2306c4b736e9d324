"""Mutation testing of the modules that hold the invariants: small changes to them, and the tests that notice.

    python benchmarks/mutants.py --named                  the five mutants of known weak spots
    python benchmarks/mutants.py --sample 60 --seed 1     a sample over all modules
    python benchmarks/mutants.py --list                   every mutant, without running anything

Each mutant is one edit of one module in a copy of the tree. The tests of the mirrored room run against it, then those
of the rooms that use the module, as far as `make fast` runs them. They stop at the first failure. A mutant that no test
notices has survived. A time-out counts as killed.

Neither mutmut (3.8) nor cosmic-ray (8.7) fits. A module that mutmut has changed imports mutmut, which a worker's
environment does not have. cosmic-ray removes no statement, keyword or element, and has one test command for a session.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDED = ("evalkit", "tests", "suites", "results", "docs", "checkpoints.yaml", "pyproject.toml")
SKIPPED = "not sim and not torch and not slow"  # the tests of `make fast`
FLIPS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in"}
FLIPS |= {"is": "is not", "is not": "is"}
NO_TESTS = 5  # pytest's exit code if every test is skipped by its mark
Verdict = Literal["killed", "timeout", "survived"]


@dataclass(frozen=True)
class Target:
    """A module whose mutants are made.

    Attributes:
        module: its path below ``evalkit/``.
        tests: the tests that must notice a change, below ``tests/``, the likeliest first.
        function: the only function to change; all of the module if None.
    """

    module: str
    tests: tuple[str, ...]
    function: str | None = None


TARGETS = (
    Target("worker/trace.py", ("worker",)),
    Target("worker/loop.py", ("worker", "runner")),
    Target("worker/wire.py", ("worker",)),
    Target("records/manifest.py", ("records", "runner/test_run.py")),
    Target("records/comparability.py", ("records", "analysis/test_compare.py")),
    Target("records/journal.py", ("records",)),
    Target("suite.py", ("records", "test_suite.py"), function="protocol"),
    Target("stats/contrasts.py", ("stats",)),
    Target("stats/metrics.py", ("stats", "suites/test_chains.py")),
    Target("stats/sequential.py", ("stats", "experiments/test_gate.py")),
    Target("execution/strategies.py", ("execution",)),
    Target("experiments/gate_order.py", ("experiments/test_gate.py",)),
    Target("analysis/pairs.py", ("analysis/test_compare.py",)),
)


@dataclass(frozen=True)
class Mutant:
    """One edit: the bytes of ``module`` from ``start`` to ``end`` become ``text``."""

    module: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the changed source."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """Return the changed lines on one line: ``path:line: - before + after``."""
        before, after = source.decode().splitlines(), self.apply(source).decode().splitlines()
        changes = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
        gone, come = (" ".join(c[1:].strip() for c in changes if c.startswith(sign)) for sign in ("-", "+"))
        line = source[: self.start].count(b"\n") + 1
        return f"{self.module}:{line}: - {gone} + {come}"


@dataclass(frozen=True)
class NamedMutant:
    """A mutant by its exact edit.

    Attributes:
        name: the invariant that it breaks.
        module: its path below ``evalkit/``.
        before: text that is there exactly once.
        after: the text in its place.
    """

    name: str
    module: str
    before: str
    after: str

    def mutant(self) -> Mutant:
        """Return the edit. Raises ValueError unless ``before`` is there exactly once."""
        source = _source(self.module)
        if source.count(self.before.encode()) != 1:
            raise ValueError(f"{self.name}: {self.before!r} is not exactly once in {self.module}")
        start = source.index(self.before.encode())
        return Mutant(self.module, start, start + len(self.before.encode()), self.after)


NAMED = (
    NamedMutant(
        "the digest leaves out the final physics state",
        "worker/trace.py",
        "summary.update(np.ascontiguousarray(state, np.float64).tobytes())",
        "pass",
    ),
    NamedMutant(
        "the protocol's fingerprint leaves out the seed",
        "suite.py",
        '"episodes", "scenes"}',
        '"episodes", "scenes", "seed"}',
    ),
    NamedMutant(
        "renderers are never compared",
        "records/comparability.py",
        "without_cameras = not (_renders(first) and _renders(second))",
        "without_cameras = True",
    ),
    NamedMutant(
        "effective n of paired tests ignores digests",
        "analysis/pairs.py",
        '"digest_a", "digest_b", "score_a", "score_b"',
        '"score_a", "score_b"',
    ),
    NamedMutant(
        "every step is observed",
        "worker/loop.py",
        "observe=step + 1 < max_steps and executor.wants_inference(step + 1)",
        "observe=True",
    ),
)


class _Editor(ast.NodeVisitor):
    """Collects the edits of one source. Annotations, docstrings and f-strings are left alone."""

    def __init__(self, module: str, source: bytes, function: str | None) -> None:
        self.found: list[Mutant] = []
        self._module, self._source = module, source
        self._lines = [0, *itertools.accumulate(len(line) for line in source.splitlines(keepends=True))]
        tree: ast.AST = ast.parse(source)
        if function is not None:
            functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
            tree = next(functions)
        self.visit(tree)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *(d for d in node.kw_defaults if d)):
            self.visit(default)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit(node.args)
        for statement in node.body:
            self.visit(statement)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Positions inside an f-string are not reliable before Python 3.12."""

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in itertools.pairwise([node.left, *node.comparators]):
            self._between(left, right, r"not in|is not|[<>=!]=|[<>]|\bin\b|\bis\b", lambda m: FLIPS[m[0]])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in itertools.pairwise(node.values):
            self._between(left, right, r"\b(and|or)\b", lambda m: "or" if m[0] == "and" else "and")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1))
            self._replace(node, str(node.value - 1))

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        given: list[ast.expr | ast.keyword] = sorted([*node.args, *node.keywords], key=self._start)
        self._remove_each(given, [a for a in given if isinstance(a, ast.keyword)])
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        self._remove_each(node.elts, node.elts)
        self.generic_visit(node)

    def visit_List(self, node: ast.List) -> None:
        if isinstance(node.ctx, ast.Load):
            self._remove_each(node.elts, node.elts)
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        if isinstance(node.ctx, ast.Load):
            self._remove_each(node.elts, node.elts)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        pairs = [
            (self._start(key or value), self._end(value)) for key, value in zip(node.keys, node.values, strict=True)
        ]
        if all(node.keys):
            self._remove_spans(pairs, pairs)
        self.generic_visit(node)

    def _start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(self._start(node), self._end(node), text)

    def _between(self, left: ast.expr, right: ast.expr, pattern: str, flipped: object) -> None:
        """Change the operator between two operands."""
        start, end = self._end(left), self._start(right)
        text = self._source[start:end].decode()
        self._add(start, end, re.sub(pattern, flipped, text, count=1))  # type: ignore[call-overload]

    def _remove_each(
        self, nodes: Sequence[ast.expr | ast.keyword], removable: Sequence[ast.expr | ast.keyword]
    ) -> None:
        spans = [(self._start(n), self._end(n)) for n in nodes]
        self._remove_spans(spans, [(self._start(n), self._end(n)) for n in removable])

    def _remove_spans(self, spans: Sequence[tuple[int, int]], removable: Sequence[tuple[int, int]]) -> None:
        """Remove one of several spans that commas separate, with one of the commas."""
        for start, end in removable:
            index = spans.index((start, end))
            if index + 1 < len(spans):
                end = spans[index + 1][0]
            elif index:
                start = spans[index - 1][1]
            self._add(start, end, "")

    def _add(self, start: int, end: int, text: str) -> None:
        mutant = Mutant(self._module, start, end, text)
        if mutant not in self.found:
            self.found.append(mutant)


def mutants(target: Target) -> list[Mutant]:
    """Return every edit of a module, in the order of its text; some may be no mutants."""
    editor = _Editor(target.module, _source(target.module), target.function)
    return sorted(editor.found, key=lambda m: (m.start, m.end, m.text))


def changes_something(mutant: Mutant) -> bool:
    """Return whether the changed module is valid Python and another program."""
    source = _source(mutant.module)
    try:
        return ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def sample(size: int, seed: int) -> list[Mutant]:
    """Return ``size`` mutants: of each module in turn, in an order that the seed decides."""
    chance = random.Random(seed)
    every = [mutants(target) for target in TARGETS]
    for found in every:
        chance.shuffle(found)
    turns = (m for turn in itertools.zip_longest(*every) for m in turn if m is not None)
    return list(itertools.islice(filter(changes_something, turns), size))


def _source(module: str) -> bytes:
    return (REPOSITORY / "evalkit" / module).read_bytes()


class Trials:
    """Copies of the tree, in which mutants are tried one after the other."""

    def __init__(self, folder: Path, jobs: int) -> None:
        """Copy the tree ``jobs`` times into ``folder``."""
        self._copies: SimpleQueue[Path] = SimpleQueue()
        self._limits: dict[str, float] = {}
        ignored = shutil.ignore_patterns("__pycache__", "runs")
        for number in range(jobs):
            copy = folder / str(number)
            copy.mkdir()
            for name in NEEDED:
                source = REPOSITORY / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=ignored)
                else:
                    shutil.copy(source, copy / name)
            self._copies.put(copy)

    def prepare(self, tests: str) -> None:
        """Run tests unchanged, for their time limit. Raises RuntimeError with their output if they fail."""
        copy = self._copies.get()
        began = time.monotonic()
        verdict, output = _run_tests(copy, tests, limit=600)
        self._copies.put(copy)
        if verdict != "survived":
            raise RuntimeError(f"tests/{tests} does not pass without a mutant ({verdict})\n{output}")
        self._limits[tests] = 20 + 3 * (time.monotonic() - began)

    def verdict(self, mutant: Mutant) -> Verdict:
        """Return whether a test notices the mutant."""
        target = next(t for t in TARGETS if t.module == mutant.module)
        copy = self._copies.get()
        file = copy / "evalkit" / mutant.module
        source = file.read_bytes()
        try:
            file.write_bytes(mutant.apply(source))
            verdicts = (_run_tests(copy, tests, self._limits[tests])[0] for tests in target.tests)
            return next((verdict for verdict in verdicts if verdict != "survived"), "survived")
        finally:
            file.write_bytes(source)
            self._copies.put(copy)


def _run_tests(copy: Path, tests: str, limit: float) -> tuple[Verdict, str]:
    """Return the verdict of some tests, and the end of their output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci", "-m"]
    process = subprocess.Popen(
        [*command, SKIPPED, f"tests/{tests}"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "timeout", ""
    return ("survived" if process.returncode in (0, NO_TESTS) else "killed"), output.decode(errors="replace")[-2000:]


def report(results: Sequence[tuple[Mutant, Verdict]]) -> str:
    """Return the results as markdown: a row for each module, then a row for each survivor."""
    lines = ["| module | mutants | killed | survived |", "|---|---|---|---|"]
    modules = dict.fromkeys(mutant.module for mutant, _ in results)
    for module in modules:
        verdicts = [verdict for mutant, verdict in results if mutant.module == module]
        lost = verdicts.count("survived")
        lines.append(f"| `{module}` | {len(verdicts)} | {len(verdicts) - lost} | {lost} |")
    lost = sum(verdict == "survived" for _, verdict in results)
    lines.append(f"| all | {len(results)} | {len(results) - lost} | {lost} |")
    lines += ["", "| survived | why |", "|---|---|"]
    for mutant, verdict in results:
        if verdict == "survived":
            line = mutant.diff(_source(mutant.module))
            lines.append(f"| `{line.replace('|', chr(92) + '|')}` | |")
    return "\n".join(lines) + "\n"


def _chosen(options: argparse.Namespace) -> Iterator[tuple[str, Mutant]]:
    if options.named:
        yield from ((named.name, named.mutant()) for named in NAMED)
    elif options.list:
        yield from (("", m) for target in TARGETS for m in mutants(target) if changes_something(m))
    else:
        yield from (("", mutant) for mutant in sample(options.sample, options.seed))


def main() -> int:
    """Try the mutants; return 1 if a named one survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--named", action="store_true", help="only the mutants of known weak spots")
    parser.add_argument("--list", action="store_true", help="print every mutant and run nothing")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="the number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at once")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    chosen = list(_chosen(options))
    results: list[tuple[Mutant, Verdict]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        if not options.list:
            trials = Trials(Path(folder), options.jobs)
            modules = {mutant.module for _, mutant in chosen}
            for tests in dict.fromkeys(tests for t in TARGETS if t.module in modules for tests in t.tests):
                trials.prepare(tests)
        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = itertools.repeat("") if options.list else pool.map(trials.verdict, [m for _, m in chosen])
            for (name, mutant), verdict in zip(chosen, verdicts, strict=False):
                line = mutant.diff(_source(mutant.module))
                print(f"{verdict:9}{line}" + (f"   ({name})" if name else ""), flush=True)
                results.append((mutant, verdict))  # type: ignore[arg-type]
                if options.out:
                    options.out.write_text(report(results))
    lost = sum(verdict == "survived" for _, verdict in results)
    print(f"{len(results)} mutants" + ("" if options.list else f", {len(results) - lost} killed, {lost} survived"))
    return 1 if options.named and lost else 0


if __name__ == "__main__":
    sys.exit(main())
