"""What can go wrong, as a tree. Each is caught somewhere on purpose.

    EvalkitError                 the message is one line for the person who ran the command: what, where, what to do
    ├── UsageError               something asked for does not exist or does not fit (name, option, file)
    ├── EnvironmentProblem       something is missing on this machine (environment, assets, GL, source)
    │   └── WorkerLost           a worker process ended or fell silent before it was ready
    ├── PolicyProblem            the policy returned something that cannot be executed, or failed
    ├── RunExists                the output folder holds a run already
    ├── RunMismatch              a run cannot be resumed as asked; names the field that differs
    └── NotComparable            two runs must not be held against each other; names the field that differs

The command line prints the message to standard error and exits with 2. ``evalkit.adapter`` has the two errors that
cross from the simulator's side, ActionError and SimulatorError.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvalkitError(Exception):
    """Base of every error that is explained to the user in one line."""


class UsageError(EvalkitError):
    """Something asked for does not exist or does not fit."""


class EnvironmentProblem(EvalkitError):
    """Something is missing on this machine."""


class WorkerLost(EnvironmentProblem):
    """A worker process ended or fell silent before it was ready."""


class PolicyProblem(EvalkitError):
    """The policy failed, or returned something that cannot be executed."""


class RunExists(EvalkitError):
    """The output folder holds a run already."""


class RunMismatch(EvalkitError):
    """A run cannot be resumed as asked."""


class NotComparable(EvalkitError):
    """Two runs must not be held against each other."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest names that do."""
    names = list(known)
    folded = {n.lower(): n for n in names}
    near = [folded[n] for n in difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.5)]
    starts = [n for n in names if n.lower().startswith(name.lower())][:3]
    if near or starts:
        hint = "did you mean " + " or ".join(dict.fromkeys([*starts, *near][:3])) + "?"
    elif len(names) <= 12:
        hint = "there are: " + ", ".join(names)
    else:
        hint = f"there are {len(names)}: {', '.join(names[:4])}, ..."
    return UsageError(f"unknown {kind} {name!r}: {hint}")
