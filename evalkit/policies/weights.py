"""Files of a checkpoint: their location, their identity, and the permission to run the code among them.

A checkpoint on the Hugging Face hub is identified by its repository and a full commit (:mod:`evalkit.policies.trust`),
a local directory by the SHA-256 of its files. Code that comes with either runs only if the user allowed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.errors import UsageError
from evalkit.files import read_json
from evalkit.policies import hub
from evalkit.policies.hub import COMMIT, HUB_ID
from evalkit.policies.remote_code import code_digest, code_files, references

_WEIGHTS = ("*.safetensors", "*.bin")
_CONFIG = ("*.json", "*.txt", "*.jinja")


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint's files on this machine.

    Attributes:
        folder: the directory that holds them.
        identity: ``source`` and ``revision``, or ``weights_sha256``; and ``code_sha256`` and ``config_sha256``. The
            path under ``where`` is recorded, but identifies nothing. JSON values.
        code: its Python files, relative path → SHA-256; empty if its code may not be run.
    """

    folder: Path
    identity: dict[str, Any]
    code: Mapping[str, str]

    @property
    def trusted(self) -> bool:
        """True if the Python code among the files may be run."""
        return bool(self.code)


def locate(
    source: str, revision: str | None, trust_remote_code: bool, *, code_sha256: str | None = None
) -> CheckpointFiles:
    """Return the files of a checkpoint, downloaded if they are not on this machine.

    Args:
        source: a directory, or a repository on the hub (``organisation/name``).
        revision: the full commit, for a repository.
        trust_remote_code: True if Python files among them may be run.
        code_sha256: SHA-256 of the code that the user allowed to run; any code if None.

    Raises:
        UsageError: the source does not exist or is not pinned, or its code was not allowed to run.
        EnvironmentProblem: the files are not on this machine and the hub cannot be reached.
    """
    try:
        folder = Path(source).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{source}: {error}") from error
    if folder.is_dir():
        if not trust_remote_code and (code_files(folder) or references(folder)):
            raise UsageError(f"{folder} contains Python code: set trust_remote_code=true to allow it to run")
        _check_complete(folder)
        identity: dict[str, Any] = {
            "weights_sha256": digest(folder, _WEIGHTS, _shards(folder)),
            "where": str(folder.resolve()),
        }
    elif HUB_ID.match(source):
        folder = _snapshot(source, revision, trust_remote_code)
        if not trust_remote_code and code_files(folder):
            raise UsageError(f"{source} contains Python code, which was not allowed to run")
        identity = {"source": source, "revision": revision}
    else:
        raise UsageError(f"{source}: no such directory, and not a hub id (organisation/name)")
    references(folder)
    code = code_files(folder)
    if code_sha256 is not None and code_digest(code) != code_sha256:
        raise UsageError(f"{folder}: its code is not the code that was allowed to run")
    digests = {"code_sha256": code_digest(code), "config_sha256": digest(folder, _CONFIG)}
    return CheckpointFiles(folder, {**identity, **digests}, code if trust_remote_code else {})


def digest(folder: Path, patterns: tuple[str, ...], more: Iterable[str] = ()) -> str:
    """Return the SHA-256 over the names and contents of the files of ``folder`` that match, and of ``more``."""
    summary = hashlib.sha256()
    names = {p.name for pattern in patterns for p in folder.glob(pattern) if p.is_file()}
    for name in sorted(names | {str(PurePosixPath(name)) for name in more}):
        with (folder / name).open("rb") as file:
            summary.update(f"{name}\0{_sha256(file)}\n".encode())
    return summary.hexdigest()


def _sha256(file: Any) -> str:
    summary = hashlib.sha256()
    while part := file.read(1 << 22):
        summary.update(part)
    return summary.hexdigest()


def _snapshot(source: str, revision: str | None, trust_remote_code: bool) -> Path:
    """Return the folder of a commit, downloaded if its code may run and not all of it is on this machine."""
    if revision is None or not COMMIT.match(revision):
        raise UsageError(f"{source}: revision must be a full commit here (evalkit.policies.trust.confirm finds it)")
    folder = hub.Snapshot(source, revision, None).folder
    if folder.is_dir() and _missing_file(folder) is None:
        return folder
    if not trust_remote_code:
        raise UsageError(f"{source} at {revision} is not on this machine, and its code was not allowed to run")
    snapshot = hub.resolve(source, revision)
    hub.check_space(snapshot)
    hub.fetch(snapshot)
    _check_complete(folder)
    return folder


def _shards(folder: Path) -> list[str]:
    """Return the weight files, relative to ``folder``. Raises UsageError if the index is malformed."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        shards = sorted(set(read_json(index, strict=False)["weight_map"].values()))
        outside = [name for name in shards if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: not a list of shards ({error})") from error
    if outside:
        raise UsageError(f"{index}: {outside[0]!r} is outside the checkpoint's directory")
    return shards


def _check_complete(folder: Path) -> None:
    """Raise UsageError if a file is missing or cannot be read."""
    missing = _missing_file(folder)
    if missing:
        raise UsageError(missing)


def _missing_file(folder: Path) -> str | None:
    """Return a message about the first missing file, or None. Raises UsageError if the index cannot be read."""
    if not (folder / "config.json").is_file():
        return f"{folder / 'config.json'}: missing: the checkpoint is incomplete"
    missing = [name for name in _shards(folder) if not (folder / name).is_file()]
    return f"{folder / missing[0]}: missing: the checkpoint's weights are incomplete" if missing else None
