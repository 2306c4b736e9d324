"""Text as LaTeX takes it."""

from __future__ import annotations

_LATEX = str.maketrans(
    {
        **{c: rf"\{c}" for c in "_&%$#{}"},
        **{"–": "--", "~": r"\~{}", "^": r"\^{}", "\\": r"\textbackslash{}", "<": r"$<$", ">": r"$>$", "·": r"$\cdot$"},
        **{"≠": r"$\neq$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "*": r"$^{*}$", "→": r"$\to$", "π": r"$\pi$"},
        **{c: f"$_{{{i}}}$" for i, c in enumerate("₀₁₂₃₄₅₆₇₈₉")},
        **{"²": "$^{2}$", "[": "{[}", "]": "{]}"},  # a bracket after a line's end would be read as its argument
    }
)


def escaped(text: str) -> str:
    """Text as LaTeX takes it."""
    return text.translate(_LATEX)
