"""A gate's outlook and judgement: for people, as markdown for a step summary, and as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from evalkit.experiments.gate import Judgement, Outlook
from evalkit.stats.power import expectations
from evalkit.report.comparison import allowed_notes, show_notes, show_verdict

_HEADER = ("", "difference", "95 % confidence", "scenes", "of", "evidence of worse", "of not worse", "verdict")


def show_outlook(outlook: Outlook, console: Console) -> None:
    """Prints what the gate can detect, and how often it will cry wolf."""
    for line in outlook_lines(outlook):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def outlook_lines(outlook: Outlook) -> list[str]:
    """What is known before the first episode, in words."""
    sizes = {name: sum(map(len, of)) for name, of in outlook.order.items()}
    scenes = ", ".join(f"{name} {n}" for name, n in sizes.items()) if len(sizes) > 1 else str(sum(sizes.values()))
    how = "the same scenes" if outlook.paired else "unpaired: other scenes of the same tasks"
    lines = [f"up to {scenes} scenes against the baseline's ({how}; it scores {100 * outlook.rate:.1f} % on them)"]
    levels = replace(outlook.levels, alpha=outlook.levels.alpha / len(sizes))
    each = "each alone, " if len(sizes) > 1 else ""
    for size, every in sorted({(sizes[name], len(of[0])) for name, of in outlook.order.items()}):
        lines += [each + line for line in expectations(levels, size, outlook.rate, every=every).sentences]
    return [f"gate: {line}" for line in lines]


def show(judgement: Judgement, console: Console) -> None:
    """Prints the verdict and what it rests on."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(_HEADER):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for cells in _rows(judgement):
        table.add_row(*cells)
    console.print()
    console.print(table)
    show_notes(notes(judgement), console)
    show_verdict(judgement.verdict, judgement.reason, console)


def notes(judgement: Judgement) -> list[str]:
    """What a reader of the verdict must know."""
    found = allowed_notes(judgement.allowed)
    if not judgement.paired:
        found.append("no scene is in both runs: weighed unpaired, which takes more of them")
    if judgement.errors:
        found.append(f"{judgement.errors} of {judgement.episodes} episodes ended in errors; they have no weight")
    return found


def markdown(judgement: Judgement) -> str:
    """A page for a step summary."""
    mark = {"PASS": "✅", "REGRESSION": "❌"}.get(judgement.verdict, "⚠️")
    lines = [
        f"## {mark} {judgement.verdict}: {judgement.candidate['checkpoint']} on {judgement.suite}",
        "",
        judgement.reason,
        "",
        "| " + " | ".join(_HEADER) + " |",
        "|---" + "|---:" * (len(_HEADER) - 1) + "|",
        *("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in _rows(judgement)),
        "",
        f"Baseline: {judgement.baseline['checkpoint']} (`{judgement.baseline['run']}`). Run: "
        f"`{judgement.candidate['run']}`. {judgement.episodes} of {judgement.planned} episodes were played.",
        *(f"\n- {note}" for note in notes(judgement)),
    ]
    return "\n".join(lines) + "\n"


def junit(judgement: Judgement) -> str:
    """A test case per stratum: a failure where it is worse, skipped where nothing was shown."""
    cases = []
    for test in judgement.tests:
        case = ElementTree.Element("testcase", classname=f"evalkit.{judgement.suite}", name=test["split"] or "gate")
        if test["verdict"] == "REGRESSION":
            ElementTree.SubElement(case, "failure", message=judgement.reason, type="REGRESSION")
        elif test["verdict"] is None:
            ElementTree.SubElement(case, "skipped", message=f"{judgement.verdict}: no verdict of its own")
        ElementTree.SubElement(case, "system-out").text = "\n".join(f"{k}: {v}" for k, v in test.items())
        cases.append(case)
    return _document(judgement.suite, cases, {"verdict": judgement.verdict, "reason": judgement.reason})


def junit_error(suite: str, kind: str, message: str) -> str:
    """The document of a gate that came to no verdict."""
    case = ElementTree.Element("testcase", classname=f"evalkit.{suite}", name="gate")
    ElementTree.SubElement(case, "error", message=message, type=kind)
    return _document(suite, [case], {"verdict": kind})


def write(path: Path, text: str, append: bool = False) -> None:
    """Writes a report, making the folders on its way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.write(text)


def _rows(judgement: Judgement) -> list[list[str]]:
    return [_cells(test, judgement) for test in judgement.tests]


def _cells(test: dict[str, Any], judgement: Judgement) -> list[str]:
    levels = judgement.levels

    def points(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:+.1f}"

    return [
        test["split"] or judgement.suite,
        points(test["difference"]),
        f"{points(test['low'])} … {points(test['high'])}",
        str(test["scenes"]),
        str(test["planned"]),
        f"{test['against_not_worse']:.3g} ({1 / test['alpha']:.0f})",
        f"{test['against_worse']:.3g} ({1 / levels.beta:.0f})",
        test["verdict"] or "–",
    ]


def _document(suite: str, cases: Sequence[ElementTree.Element], properties: dict[str, str]) -> str:
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    numbers = {name: str(n) for name, n in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "evalkit gate", **numbers})
    element = ElementTree.SubElement(root, "testsuite", {"name": f"evalkit gate {suite}", **numbers})
    listed = ElementTree.SubElement(element, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(listed, "property", name=name, value=value)
    element.extend(cases)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
