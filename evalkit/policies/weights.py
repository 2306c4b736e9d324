"""Files of a checkpoint: their location, their identity, and the permission to run the code among them.

A checkpoint on the Hugging Face hub is identified by its repository and a full commit, a local directory by the SHA-256
of its files. Code that comes with either runs only if the user allowed it, and only if it is pinned.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.errors import EnvironmentProblem, UsageError, excerpt
from evalkit.files import read_json
from evalkit.policies.remote_code import code_digest, code_files, references

COMMIT = re.compile(r"^[0-9a-f]{40}$")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
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
    source: str, revision: str | None, trust_remote_code: bool, name: str, known: Mapping[str, str] | None = None
) -> CheckpointFiles:
    """Return the files of a checkpoint, downloaded if they are not on this machine.

    Args:
        source: a directory, or a repository on the hub (``organisation/name``).
        revision: the full commit, for a repository.
        trust_remote_code: True if Python files among them may be run.
        name: the checkpoint's name, for the commands that messages suggest.
        known: a ``commit`` and the publication that it is ``named_by``, to offer if ``revision`` is None.

    Raises:
        UsageError: the source does not exist or is not pinned, or its code is not trusted.
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
        commit = _pinned_commit(source, revision, name, known)
        if not trust_remote_code:
            raise UsageError(
                f"{source} contains Python code: read it, then allow it to run with "
                f"--checkpoint {name}:revision={commit},trust_remote_code=true (and your other parameters)"
            )
        folder = _download(source, commit, name)
        identity = {"source": source, "revision": commit}
    else:
        raise UsageError(f"{source}: no such directory, and not a hub id (organisation/name)")
    references(folder)
    code = code_files(folder)
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


def _pinned_commit(source: str, revision: str | None, name: str, known: Mapping[str, str] | None) -> str:
    """Return the commit of ``revision``.

    Raises:
        UsageError: it is not a full commit, or it is None; the message names the newest commit and the known one.
        EnvironmentProblem: it is None and the hub cannot be reached; the message names the known commit.
    """
    if revision is not None:
        if not COMMIT.match(revision):
            raise UsageError(f"revision {revision!r} is not a full commit (40 hexadecimal digits)")
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    no_directory = "" if name != source else f" (and there is no directory {source})"
    confirm = (
        f"{known['named_by']} names commit {known['commit']}, which evalkit's authors could not verify: confirm it "
        f"with --checkpoint {name}:revision={known['commit']}"
        if known
        else ""
    )
    try:
        newest = HfApi().model_info(source, timeout=10).sha
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(f"{source}: no such repository on the hub, or no access to it{no_directory}") from error
    except Exception as error:  # being offline raises many kinds
        remedy = f"{confirm}, or name" if known else f"name a commit (--checkpoint {name}:revision=COMMIT) or"
        raise EnvironmentProblem(
            f"its weights are not on this machine: {source} is not pinned to a commit and the hub cannot be reached"
            f"{no_directory}; {remedy} a copy (--checkpoint {name}:source=DIR)"
        ) from error
    raise UsageError(
        f"{source} is not pinned to a commit; its newest is {newest}: run it with --checkpoint {name}:revision={newest}"
        f" (and your other parameters){f'; {confirm}' if known else ''}"
    )


def _download(source: str, revision: str, name: str) -> Path:
    """Return the snapshot on this machine, downloaded if it is absent or incomplete."""
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # no part of it is on this machine
        cached = Path(snapshot_download(source, revision=revision, local_files_only=True))
        if not _missing_file(cached):
            return cached
    try:
        folder = Path(snapshot_download(source, revision=revision))
    except Exception as error:
        reason = excerpt((str(error).strip() or type(error).__name__).splitlines()[0], 160)
        raise EnvironmentProblem(
            f"its weights are not (all) on this machine, and {source} at {revision[:12]} cannot be downloaded "
            f"({reason}); name a copy with --checkpoint {name}:source=DIR"
        ) from error
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
