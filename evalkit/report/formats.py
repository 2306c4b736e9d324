"""Runs as one document for other programs and papers: markdown, CSV, JSON, LaTeX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from evalkit.analysis.summary import Summary, rows_frame
from evalkit.report import published, tables

if TYPE_CHECKING:
    from evalkit.analysis.published import PublishedComparison

Format = Literal["md", "csv", "json", "latex"]


def render(summaries: Sequence[Summary], form: Format, comparisons: Sequence[PublishedComparison] | None = None) -> str:
    """Return every row of every run as one document, followed by the comparisons with published figures.

    JSON and CSV have one record per row and unrounded numbers; markdown and LaTeX have one table per run, in percent.
    """
    if form == "json":
        document: dict[str, Any] = {"rows": [row.to_dict() for s in summaries for row in s.rows]}
        if comparisons is not None:
            document["published"] = [row for c in comparisons for row in published.documents(c)]
            document["comparisons"] = [row for c in comparisons for row in published.comparisons(c)]
        return json.dumps(document, indent=1)
    if form == "csv":
        return _csv(summaries, comparisons)
    shown = [tables.markdown(s) if form == "md" else tables.latex(s) for s in summaries]
    render_table = published.markdown if form == "md" else published.latex
    return "\n\n".join([*shown, *(render_table(c) for c in comparisons or [])])


def _csv(summaries: Sequence[Summary], comparisons: Sequence[PublishedComparison] | None) -> str:
    import pandas as pd

    frame = rows_frame(summaries)
    if comparisons is not None:
        keys = ["run", "suite", "split", "task", "metric"]
        compared = pd.DataFrame(
            [row for c in comparisons for row in published.comparisons(c)],
            columns=[*keys, "published", "outside_interval"],
        )
        frame = frame.merge(compared, how="left", on=keys)
        rows = pd.DataFrame([r for c in comparisons for r in published.records(c)], columns=[*frame.columns, "source"])
        frame = pd.concat([frame.astype(object), rows.astype(object)]) if len(rows) else frame.assign(source=None)
        frame[["n", "errors"]] = frame[["n", "errors"]].astype("Int64")
    text: str = frame.to_csv(index=False)
    return text.rstrip("\n")
