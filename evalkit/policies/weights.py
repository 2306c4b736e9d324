"""Where a checkpoint's files are, what identifies them, and whether their code may run.

A checkpoint on the Hugging Face hub is identified by its repository and a full commit; a local directory by the SHA-256
of its files. Code that comes with either runs only where that was asked for, and only when it is pinned.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.errors import EnvironmentProblem, UsageError

COMMIT = re.compile(r"^[0-9a-f]{40}$")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_CODE = ("*.py",)
_WEIGHTS = ("*.safetensors", "*.bin")
_CONFIG = ("*.json", "*.txt", "*.jinja")


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint's files on this machine.

    Attributes:
        folder: the directory that holds them.
        identity: what they are: ``source`` and ``revision``, or ``weights_sha256``, and ``code_sha256``; ``where`` they
            are does not tell what they are. JSON values.
    """

    folder: Path
    identity: dict[str, Any]


def locate(source: str, revision: str | None, trusts_code: bool, name: str) -> CheckpointFiles:
    """The files of a checkpoint, downloaded where they are not here yet.

    Args:
        source: a directory, or a repository on the hub (``organisation/name``).
        revision: the full commit, for a repository.
        trusts_code: whether Python files among them may be run.
        name: the checkpoint's name, for the commands that messages suggest.

    Raises:
        UsageError: the source does not exist or is not pinned, or its code is not trusted.
        EnvironmentProblem: the files are not on this machine and the hub cannot be reached.
    """
    try:
        folder = Path(source).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{source}: {error}") from error
    if folder.is_dir():
        if not trusts_code and any(folder.glob("*.py")):
            raise UsageError(f"{folder} has code of its own: set trust_remote_code=true to run it")
        _check_whole(folder)
        identity: dict[str, Any] = {
            "weights_sha256": digest(folder, _WEIGHTS, _shards(folder)),
            "where": str(folder.resolve()),
        }
    elif HUB_ID.match(source):
        pinned = _pinned(source, revision, name)
        if not trusts_code:
            raise UsageError(
                f"{source} runs code of its own; read it, then allow it with "
                f"--checkpoint {name}:revision={pinned},trust_remote_code=true (and what else you set)"
            )
        folder = _download(source, pinned, name)
        identity = {"source": source, "revision": pinned}
    else:
        raise UsageError(f"{source}: no such directory, and not a hub id (organisation/name)")
    return CheckpointFiles(
        folder, {**identity, "code_sha256": digest(folder, _CODE), "config_sha256": digest(folder, _CONFIG)}
    )


def digest(folder: Path, patterns: tuple[str, ...], more: Iterable[str] = ()) -> str:
    """SHA-256 over the names and contents of the files at the top of ``folder`` that match, and of ``more``."""
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


def _pinned(source: str, revision: str | None, name: str) -> str:
    """The commit to take. Raises UsageError, or EnvironmentProblem without a network, where none was named."""
    if revision is not None:
        if not COMMIT.match(revision):
            raise UsageError(f"revision {revision!r} is not a full commit (40 hexadecimal digits)")
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    here = "" if name != source else f" (nor is there a directory {source} here)"
    try:
        newest = HfApi().model_info(source, timeout=10).sha
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(f"{source}: the hub has no such repository, or it is not yours to see{here}") from error
    except Exception as error:  # offline, in one of many ways
        raise EnvironmentProblem(
            f"its weights are not here: {source} is not pinned to a commit and the hub cannot be reached{here}; name "
            f"a commit (--checkpoint {name}:revision=COMMIT) or a copy (--checkpoint {name}:source=DIR)"
        ) from error
    raise UsageError(
        f"{source} is not pinned to a commit; its newest is {newest}: run it with --checkpoint {name}:revision={newest}"
        " (and what else you set)"
    )


def _download(source: str, revision: str, name: str) -> Path:
    """The snapshot on this machine, fetched where it is not there or, after a download that was cut off, not whole."""
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # nothing of it is here
        here = Path(snapshot_download(source, revision=revision, local_files_only=True))
        if not _lacking(here):
            return here
    try:
        folder = Path(snapshot_download(source, revision=revision))
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentProblem(
            f"its weights are not (all) here, and {source} at {revision[:12]} cannot be downloaded ({why[:160]}); "
            f"name a copy with --checkpoint {name}:source=DIR"
        ) from error
    _check_whole(folder)
    return folder


def _shards(folder: Path) -> list[str]:
    """The files with the weights, by their names relative to ``folder``. Raises UsageError for an index of none."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in shards if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: not a list of shards ({error})") from error
    if outside:
        raise UsageError(f"{index}: {outside[0]!r} is outside the checkpoint's directory")
    return shards


def _check_whole(folder: Path) -> None:
    """Raises UsageError that names the file that is missing or that cannot be read."""
    lacking = _lacking(folder)
    if lacking:
        raise UsageError(lacking)


def _lacking(folder: Path) -> str | None:
    """Which file is missing, in words, or None. Raises UsageError for an index that cannot be read."""
    if not (folder / "config.json").is_file():
        return f"{folder / 'config.json'}: missing; it is not a whole checkpoint"
    missing = [name for name in _shards(folder) if not (folder / name).is_file()]
    return f"{folder / missing[0]}: missing; its weights are not all there" if missing else None
