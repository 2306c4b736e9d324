"""A gate's forecast and result: for people, as markdown for a step summary, and as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from evalkit.experiments.gate import GateForecast, GateResult
from evalkit.locations import naming
from evalkit.report.comparison import allowed_notes, show_notes, show_verdict
from evalkit.stats.power import expectations

_HEADER = ("", "difference", "95 % confidence", "scenes", "of", "evidence of worse", "of not worse", "verdict")


def show_forecast(forecast: GateForecast, console: Console) -> None:
    """Print the drop that the gate can detect, and its error rates."""
    for line in forecast_lines(forecast):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def forecast_lines(forecast: GateForecast) -> list[str]:
    """Return the forecast in words, one line each."""
    sizes = {name: sum(map(len, of)) for name, of in forecast.order.items()}
    scenes = ", ".join(f"{name} {n}" for name, n in sizes.items()) if len(sizes) > 1 else str(sum(sizes.values()))
    pairing = "the same scenes" if forecast.paired else "unpaired: other scenes of the same tasks"
    lines = [f"up to {scenes} scenes against the baseline's ({pairing}; it scores {100 * forecast.rate:.1f} % on them)"]
    error_rates = replace(forecast.error_rates, alpha=forecast.error_rates.alpha / len(sizes))
    each = "each alone, " if len(sizes) > 1 else ""
    for size, every in sorted({(sizes[name], len(of[0])) for name, of in forecast.order.items()}):
        lines += [each + line for line in expectations(error_rates, size, forecast.rate, every=every).sentences]
    return [f"gate: {line}" for line in lines]


def show(result: GateResult, console: Console) -> None:
    """Print the verdict and its evidence."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(_HEADER):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for cells in _rows(result):
        table.add_row(*cells)
    console.print()
    console.print(table)
    show_notes(notes(result), console)
    show_verdict(result.verdict, result.reason, console)


def notes(result: GateResult) -> list[str]:
    """Return the notes on the verdict."""
    found = allowed_notes(result.allowed)
    if not result.paired:
        found.append("no scene is in both runs: compared unpaired, which takes more scenes")
    if result.errors:
        found.append(f"{result.errors} of {result.episodes} episodes ended in errors; they are not counted")
    return found


def markdown(result: GateResult) -> str:
    """Return a page for a step summary."""
    mark = {"PASS": "✅", "REGRESSION": "❌"}.get(result.verdict, "⚠️")
    lines = [
        f"## {mark} {result.verdict}: {result.candidate['checkpoint']} on {result.suite}",
        "",
        result.reason,
        "",
        "| " + " | ".join(_HEADER) + " |",
        "|---" + "|---:" * (len(_HEADER) - 1) + "|",
        *("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in _rows(result)),
        "",
        f"Baseline: {result.baseline['checkpoint']} (`{result.baseline['run']}`). Run: "
        f"`{result.candidate['run']}`. {result.episodes} of {result.planned} episodes were played.",
        *(f"\n- {note}" for note in notes(result)),
    ]
    return "\n".join(lines) + "\n"


def junit(result: GateResult) -> str:
    """Return a test case per stratum: a failure if it is worse, skipped if it has no verdict."""
    cases = []
    for test in result.tests:
        case = ElementTree.Element("testcase", classname=f"evalkit.{result.suite}", name=test["split"] or "gate")
        if test["verdict"] == "REGRESSION":
            ElementTree.SubElement(case, "failure", message=result.reason, type="REGRESSION")
        elif test["verdict"] is None:
            ElementTree.SubElement(case, "skipped", message=f"{result.verdict}: no verdict of its own")
        ElementTree.SubElement(case, "system-out").text = "\n".join(f"{k}: {v}" for k, v in test.items())
        cases.append(case)
    return _document(result.suite, cases, {"verdict": result.verdict, "reason": result.reason})


def junit_error(suite: str, kind: str, message: str) -> str:
    """Return the document of a gate without a verdict."""
    case = ElementTree.Element("testcase", classname=f"evalkit.{suite}", name="gate")
    ElementTree.SubElement(case, "error", message=message, type=kind)
    return _document(suite, [case], {"verdict": kind})


def write(path: Path, text: str, append: bool = False) -> None:
    """Write a report and create its parent folders."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)


def _rows(result: GateResult) -> list[list[str]]:
    return [_cells(test, result) for test in result.tests]


def _cells(test: dict[str, Any], result: GateResult) -> list[str]:
    error_rates = result.error_rates

    def points(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:+.1f}"

    return [
        test["split"] or result.suite,
        points(test["difference"]),
        f"{points(test['low'])} … {points(test['high'])}",
        str(test["scenes"]),
        str(test["planned"]),
        f"{test['against_not_worse']:.3g} ({1 / test['alpha']:.0f})",
        f"{test['against_worse']:.3g} ({1 / error_rates.beta:.0f})",
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
