"""Repositories on the Hugging Face hub: the commit of a name, its files, and their download into the hub's own cache.

The ``huggingface_hub`` client does the work: progress on standard error, resumed downloads, one process at a time per
file. Here are added a check of the free space, more patience with a connection that is cut, a check of every downloaded
file against the hash that the hub states, and errors in one line.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.errors import EnvironmentProblem, UsageError, excerpt
from evalkit.policies.hub_errors import HubUnreachable, explained, offline, status_of

COMMIT = re.compile(r"^[0-9a-f]{40}$")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
REVISION = re.compile(r"^[A-Za-z0-9_][\w./+-]*$")
_SMALL = 1 << 24  # bytes up to which a file that was there before is hashed as well
_STALLS = 3  # attempts without a new byte before a download is given up
_PAUSE_S = 1.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub states it.

    Attributes:
        size: bytes, or None if the hub does not say.
        sha256: SHA-256 of its content, for a large file (LFS); else None.
        blob: git's hash of its content, for a small file; else None.
    """

    size: int | None
    sha256: str | None
    blob: str | None

    @property
    def name(self) -> str | None:
        """The name of its content in the cache, or None if it is unknown."""
        return self.sha256 or self.blob


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        repository: its name, ``organisation/name``.
        commit: the full commit.
        files: its files by relative path, or None if the hub was not asked.
    """

    repository: str
    commit: str
    files: Mapping[str, HubFile] | None

    @property
    def folder(self) -> Path:
        """The folder of its files in the hub's cache, whether or not they are there."""
        return _cache(self.repository) / "snapshots" / self.commit


def resolve(repository: str, revision: str | None) -> Snapshot:
    """Ask the hub for the commit of a revision, and for the files there.

    Args:
        repository: ``organisation/name``.
        revision: a branch, a tag or a full commit; the default branch if None.

    Raises:
        UsageError: there is no such repository or revision, or no access to it.
        EnvironmentProblem: the hub's answer cannot be used. HubUnreachable: there is none.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        files = {one.rfilename: _file(one) for one in info.siblings or []}
    except Exception as error:  # a missing connection has many kinds
        raise explained(error, repository, revision) from error
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit) or (revision and COMMIT.match(revision) and commit != revision):
        raise EnvironmentProblem(f"{repository}: the hub answered with commit {excerpt(commit, 60)!r}")
    for name in files:
        if not inside(name):
            raise UsageError(f"{repository}: {excerpt(name, 80)!r} is outside the repository's folder")
    return Snapshot(repository, commit, files)


def resolve_offline(repository: str, revision: str | None) -> Snapshot | None:
    """Return the commit that a revision had at its last download to this machine, or None."""
    commit = revision
    if revision is None or not COMMIT.match(revision):
        if not inside(revision or "main"):
            return None
        ref = _cache(repository) / "refs" / (revision or "main")
        try:
            commit = ref.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    found = Snapshot(repository, str(commit), None)
    return found if COMMIT.fullmatch(found.commit) and found.folder.is_dir() else None


def fetch(snapshot: Snapshot, suffixes: tuple[str, ...] = ("",)) -> list[str]:
    """Download the files whose names end with one of ``suffixes`` and that are missing or damaged; return their names.

    Raises:
        UsageError: no access to them.
        EnvironmentProblem: the download failed, or a file is not as the hub states.
    """
    files = snapshot.files or {}
    wanted = [name for name in files if name.endswith(suffixes)]
    there = {name for name in wanted if (snapshot.folder / name).exists()}
    missing = [name for name in wanted if not _intact(snapshot.folder / name, files[name], _SMALL)]
    if not missing:
        return []
    for name in there.intersection(missing):  # and no file that another process has just finished
        _discard(snapshot, name)
    _download(snapshot, missing)
    for name in missing:
        if not _intact(snapshot.folder / name, files[name]):
            _discard(snapshot, name)
            raise EnvironmentProblem(
                f"{snapshot.repository}: {excerpt(name, 80)}: the download differs from the size and the hash that the "
                "hub states; it was removed: try again"
            )
    return missing


def bytes_missing(snapshot: Snapshot) -> int:
    """Return the number of bytes that are still to be downloaded, as far as the hub states sizes."""
    missing = 0
    for name, file in (snapshot.files or {}).items():
        if not _intact(snapshot.folder / name, file, 0):
            missing += max(0, (file.size or 0) - _bytes([_incomplete(snapshot, file)]))
    return missing


def check_space(snapshot: Snapshot) -> tuple[int, int]:
    """Return the bytes to download and the bytes that are free. Raises EnvironmentProblem if they are too few."""
    missing, place = bytes_missing(snapshot), _cache(snapshot.repository)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing > free:
        raise EnvironmentProblem(
            f"{snapshot.repository} needs {in_words(missing)} more in {_cache(snapshot.repository)}, where "
            f"{in_words(free)} are free: make room, or set HF_HOME to a folder on another disk"
        )
    return missing, free


def inside(name: str) -> bool:
    """Return True if a relative path stays in its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def in_words(size: int) -> str:
    """Return a number of bytes for people."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.1f} {unit}" if unit != "bytes" else f"{size} bytes"


def _cache(repository: str) -> Path:
    """Return the folder of a repository in the hub's cache, whose layout is documented."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _file(sibling: Any) -> HubFile:
    lfs = sibling.lfs or {}
    sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
    return HubFile(sibling.size, sha256, None if sha256 else sibling.blob_id)


def _incomplete(snapshot: Snapshot, file: HubFile) -> Path:
    """Return the place where the client keeps the first part of a file."""
    return _cache(snapshot.repository) / "blobs" / f"{file.name}.incomplete"


def _bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def _intact(path: Path, file: HubFile, hashed_up_to: int | None = None) -> bool:
    """Return True if a file is there and as the hub states: its size, and its hash if it has at most so many bytes."""
    if not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    size = path.stat().st_size
    if file.name is None or (hashed_up_to is not None and size > hashed_up_to):
        return True
    summary = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as content:
        while part := content.read(1 << 22):
            summary.update(part)
    return summary.hexdigest() == file.name


def _discard(snapshot: Snapshot, name: str) -> None:
    """Remove a file from the cache, so that the client downloads it again."""
    path = snapshot.folder / name
    content = path.resolve()
    if content.is_relative_to(_cache(snapshot.repository).resolve()):
        content.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _download(snapshot: Snapshot, names: list[str]) -> None:
    """Download files, and go on where a connection was cut for as long as bytes arrive."""
    from huggingface_hub import snapshot_download

    files = snapshot.files or {}
    parts = [_incomplete(snapshot, files[name]) for name in names]
    patterns = [glob.escape(name) for name in names]
    stalls = 0
    while True:
        before = _bytes(snapshot.folder / name for name in names) + _bytes(parts)
        try:
            snapshot_download(
                snapshot.repository, revision=snapshot.commit, allow_patterns=patterns, tqdm_class=_terminal_bar()
            )
            return
        except Exception as error:
            grown = _bytes(snapshot.folder / name for name in names) + _bytes(parts) > before
            stalls = 0 if grown else stalls + 1
            problem = explained(error, snapshot.repository, snapshot.commit)
            given_up = stalls == _STALLS or status_of(error) is not None or offline()  # it repeated a bad status itself
            if given_up or not isinstance(problem, HubUnreachable):
                if "Consistency check" in str(error):  # its first part is of no use to the next attempt
                    for part in parts:
                        part.unlink(missing_ok=True)
                raise problem from error
            time.sleep(_PAUSE_S * (stalls + 1))


def _terminal_bar() -> Any:
    """Return the client's progress bar, silent where standard error is no terminal."""
    bar: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class TerminalBar(bar):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"disable": None, **options})

    return TerminalBar
