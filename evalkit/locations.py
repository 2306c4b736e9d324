"""Folders: evalkit's own data, its caches, suites, and the folders given to ``evalkit setup``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

from evalkit.errors import EnvironmentProblem, EvalkitError, UsageError, unknown
from evalkit.files import read_json

SUITES_GROUP = "evalkit.suites"
_MAX_NAME = 120  # bytes of a file's name are limited to 255, and a letter may have two


def own_version() -> str:
    """Return evalkit's version, or ``"unknown"`` if it is not installed."""
    try:
        return version("evalkit-vla")
    except PackageNotFoundError:
        return "unknown"


def package_folder() -> Path:
    """Return the folder of the ``evalkit`` package itself."""
    return Path(__file__).resolve().parent


def data_folder() -> Path:
    """Return the folder with ``suites/``, ``results/published/`` and ``checkpoints.yaml``, in a wheel or a checkout."""
    installed = package_folder() / "_data"
    return installed if installed.is_dir() else package_folder().parent


def published_folder() -> Path:
    """Return the folder of the published reference tables."""
    return data_folder() / "results" / "published"


def home_folder() -> Path:
    """Return the folder of environments and caches: ``$EVALKIT_HOME``, by default ``evalkit`` in the cache folder.

    Raises:
        EnvironmentProblem: the user has no home folder, and neither EVALKIT_HOME nor XDG_CACHE_HOME is set.
    """
    chosen = os.environ.get("EVALKIT_HOME")
    if chosen:
        return expanded(chosen).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalkit"
    except RuntimeError as error:
        reason = "this user has no home folder: set EVALKIT_HOME to a folder for environments and caches"
        raise EnvironmentProblem(reason) from error


def expanded(path: Path | str) -> Path:
    """Return a path with its ``~`` replaced. Raises UsageError if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder; write the whole path") from error


def given_folder(suite: str, what: str, variable: str) -> Path | None:
    """Return a suite's ``what`` (assets, source): its environment variable, else the recorded folder, or None."""
    chosen = os.environ.get(variable)
    return expanded(chosen).absolute() if chosen else remembered_folder(suite, what)


def remembered_folder(suite: str, what: str) -> Path | None:
    """Return the folder last given to ``evalkit setup`` as a suite's ``what`` (assets, source), or None."""
    record = _record(suite)
    try:
        folder = read_json(record).get(what) if record.exists() else None
        return None if folder is None else Path(folder)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise EnvironmentProblem(f"{record}: damaged; remove it and run `evalkit setup {suite}` again") from error


def remember_folder(suite: str, what: str, folder: Path) -> None:
    """Record a folder for :func:`remembered_folder`."""
    record = _record(suite)
    known = {key: remembered_folder(suite, key) for key in ("assets", "source")} | {what: folder}
    draft = record.with_suffix(f".{os.getpid()}")
    with naming(record):
        record.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({key: str(path) for key, path in known.items() if path}) + "\n")
        draft.replace(record)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise EvalkitError that names ``path`` if it cannot be written: a full disk alone does not say which file."""
    try:
        yield
    except OSError as error:
        raise EvalkitError(f"{path}: cannot be written: {error.strerror or error}") from error


def as_file_name(text: str) -> str:
    """Return text as a name for a file or folder: other characters than letters, digits and ``._-`` become ``-``."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)[:_MAX_NAME].lstrip(".") or "-"


def _record(suite: str) -> Path:
    return home_folder() / "suites" / f"{suite}.json"


def suite_folders() -> dict[str, Path]:
    """Return the folder of every suite by name: evalkit's own, then those of installed packages.

    A third-party package offers a suite by an entry point in group ``evalkit.suites``. Its value is the dotted name of
    the package folder that holds ``suite.yaml``. A suite that cannot be located is left out.
    """
    folders = _own_suites()
    for entry in entry_points(group=SUITES_GROUP):
        with contextlib.suppress(UsageError):
            folders.setdefault(entry.name, _entry_folder(entry))
    return folders


def suite_folder(name: str) -> Path:
    """Return the folder of a suite, given its name or, with a path separator in it, the folder itself.

    Raises UsageError for a name that does not exist, with the nearest names that do.
    """
    if os.sep in name:
        folder = expanded(name).absolute()
        if not (folder / "suite.yaml").is_file():
            raise UsageError(f"{folder}: no suite.yaml there")
        return folder
    own = _own_suites()
    if name in own:
        return own[name]
    for entry in entry_points(group=SUITES_GROUP):
        if entry.name == name:
            return _entry_folder(entry)
    if name and Path(name, "suite.yaml").is_file():
        raise UsageError(f"unknown suite {name!r}: there is a folder {name} here: write .{os.sep}{name}")
    raise unknown("suite", name, suite_folders())


def _own_suites() -> dict[str, Path]:
    return {p.parent.name: p.parent for p in sorted((data_folder() / "suites").glob("*/suite.yaml"))}


def _entry_folder(entry: EntryPoint) -> Path:
    try:
        spec = find_spec(entry.value)
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or not Path(places[0], "suite.yaml").is_file():
        raise UsageError(f"entry point {entry.name} = {entry.value!r} in group {SUITES_GROUP}: no suite.yaml there")
    return Path(places[0])
