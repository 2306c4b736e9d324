"""Where a checkpoint's files are, what identifies them, and whether their code may run.

A checkpoint on the Hugging Face hub is identified by its repository and a full commit; a local directory by the SHA-256
of its files. Code that comes with either runs only where that was asked for, and only when it is pinned.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EnvironmentProblem, UsageError

COMMIT = re.compile(r"^[0-9a-f]{40}$")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_CODE = ("*.py",)
_WEIGHTS = ("*.safetensors", "*.bin")
_CONFIG = ("*.json", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Located:
    """A checkpoint's files on this machine.

    Attributes:
        folder: the directory that holds them.
        identity: what they are: ``source``, and ``revision`` or ``weights_sha256``; ``code_sha256``; JSON values.
    """

    folder: Path
    identity: dict[str, Any]


def locate(source: str, revision: str | None, trusts_code: bool, name: str) -> Located:
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
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not trusts_code and any(folder.glob("*.py")):
            raise UsageError(f"{folder} has code of its own: set trust_remote_code=true to run it")
        _check_whole(folder)
        identity: dict[str, Any] = {"source": str(folder.resolve()), "weights_sha256": digest(folder, _WEIGHTS)}
    elif HUB_ID.match(source):
        pinned = _pinned(source, revision, name)
        if not trusts_code:
            raise UsageError(
                f"{source} runs code of its own; read it, then allow it with "
                f"--checkpoint {name}:revision={pinned},trust_remote_code=true"
            )
        folder = _download(source, pinned, name)
        _check_whole(folder)
        identity = {"source": source, "revision": pinned}
    else:
        raise UsageError(f"{source}: no such directory, and not a hub id (organisation/name)")
    return Located(folder, {**identity, "code_sha256": digest(folder, _CODE), "config_sha256": digest(folder, _CONFIG)})


def digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 over the names and contents of the files at the top of ``folder`` that match."""
    summary = hashlib.sha256()
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()}):
        with path.open("rb") as file:
            summary.update(f"{path.name}\0{_sha256(file)}\n".encode())
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
    newest = _newest_commit(source)
    if newest:
        raise UsageError(
            f"{source} is not pinned to a commit; its newest is {newest}: "
            f"run it with --checkpoint {name}:revision={newest}"
        )
    raise EnvironmentProblem(
        f"its weights are not here: {source} is not pinned to a commit and the hub cannot be "
        f"reached; name a commit (--checkpoint {name}:revision=COMMIT) or a copy (--checkpoint {name}:source=DIR)"
    )


def _newest_commit(source: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(source, timeout=10).sha
    except Exception:  # offline, or no such repository: the caller says what can be done
        return None


def _download(source: str, revision: str, name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except Exception:  # not (all) here yet
        pass
    try:
        return Path(snapshot_download(source, revision=revision))
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentProblem(
            f"its weights are not here, and {source} at {revision[:12]} cannot be downloaded ({why[:160]}); "
            f"name a copy with --checkpoint {name}:source=DIR"
        ) from error


def _check_whole(folder: Path) -> None:
    """Raises UsageError that names the file that is missing or that cannot be read."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder / 'config.json'}: missing; it is not a whole checkpoint")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{index}: not a list of shards ({error})") from error
    else:
        shards = {"model.safetensors"}
    for shard in sorted(shards):
        if not (folder / shard).is_file():
            raise UsageError(f"{folder / shard}: missing; its weights are not all there")
