"""The tree of evalkit's errors. Each is caught somewhere on purpose.

    EvalkitError                 the message is one line for the person who ran the command: what, where, what to do
    ├── UsageError               a name, option or file does not exist or does not fit
    ├── EnvironmentProblem       this machine lacks something (environment, assets, GL, source)
    │   └── WorkerLost           a worker process ended or stopped answering before it was ready
    ├── PolicyProblem            the policy failed, or returned something that cannot be executed
    ├── RunExists                the output folder already holds a run
    ├── RunMismatch              a run cannot be resumed with these options; names the field that differs
    └── NotComparable            two runs must not be compared; names the field that differs

The command line prints the message to standard error and exits with 2. ``evalkit.adapter`` defines the two errors
that the simulator's side raises, ActionError and SimulatorError.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class EvalkitError(Exception):
    """The base of every error that is explained to the user in one line."""


class UsageError(EvalkitError):
    """A name, option or file does not exist or does not fit."""


class EnvironmentProblem(EvalkitError):
    """This machine lacks something."""


class WorkerLost(EnvironmentProblem):
    """A worker process ended or stopped answering before it was ready."""


class PolicyProblem(EvalkitError):
    """The policy failed, or returned something that cannot be executed."""


class RunExists(EvalkitError):
    """The output folder already holds a run."""


class RunMismatch(EvalkitError):
    """A run cannot be resumed with these options."""


class NotComparable(EvalkitError):
    """Two runs must not be compared."""


def excerpt(text: object, limit: int = 300) -> str:
    """Return a text from elsewhere (a server, a client, a file, another program) as it may be shown or recorded.

    Characters that could act on a terminal or hide text (controls, line separators, bidirectional and other invisible
    ones, unpaired surrogates) become spaces, and runs of spaces become one.

    Args:
        text: the text, or an object whose ``str`` it is.
        limit: the maximum number of characters returned; a text that is cut ends with "...".
    """
    found = str(text)
    start = found[: 4 * limit]  # enough, whatever its spaces; a text of megabytes must cost no time
    shown = "".join(" " if unicodedata.category(c)[0] == "C" or c.isspace() else c for c in start)
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit and len(found) <= 4 * limit else shown[: limit - 3].rstrip() + "..."


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist, with the nearest names that do."""
    names = list(known)
    near = nearest(name, names)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif len(names) <= 12:
        hint = "there are: " + ", ".join(names)
    else:
        hint = f"there are {len(names)}: {', '.join(names[:4])}, ..."
    return UsageError(f"unknown {kind} {name!r}: {hint}")


def nearest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the names that begin with ``name``, then those spelled like it, at most ``count``.

    Args:
        name: the name to look for; case does not matter.
        known: the names that exist.
        count: the maximum number of names returned.
        cutoff: the minimum similarity of a name that is only spelled alike, 0 to 1.
    """
    names = list(known)
    folded = {n.lower(): n for n in names}
    alike = [folded[n] for n in difflib.get_close_matches(name.lower(), list(folded), n=count, cutoff=cutoff)]
    begins = [n for n in names if n.lower().startswith(name.lower())][:count]
    return list(dict.fromkeys([*begins, *alike]))[:count]
