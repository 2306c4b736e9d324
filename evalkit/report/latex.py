"""Text escaped for LaTeX."""

from __future__ import annotations

_LATEX = str.maketrans(
    {
        **{c: rf"\{c}" for c in "_&%$#{}"},
        **{"–": "--", "~": r"\~{}", "^": r"\^{}", "\\": r"\textbackslash{}", "<": r"$<$", ">": r"$>$", "·": r"$\cdot$"},
        **{"≠": r"$\neq$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "*": r"$^{*}$", "→": r"$\to$", "π": r"$\pi$"},
        **{c: f"$_{{{i}}}$" for i, c in enumerate("₀₁₂₃₄₅₆₇₈₉")},
        **{"²": "$^{2}$", "[": "{[}", "]": "{]}"},  # LaTeX would read a bracket after a line's end as its argument
    }
)


def escaped(text: str) -> str:
    """Return the text with LaTeX's special characters escaped."""
    return text.translate(_LATEX)
