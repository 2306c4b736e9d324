"""Things that lie where a file is expected."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def hostile_files(folder: Path) -> dict[str, Path]:
    """Make them in ``folder``; return them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: folder / name.replace(" ", "-") for name in ("fifo", "sparse", "loop", "dangling", "folder", "empty")
    }
    os.mkfifo(found["fifo"])
    with found["sparse"].open("wb") as file:
        file.truncate(5 << 30)
    found["loop"].symlink_to(found["loop"])
    found["dangling"].symlink_to(folder / "nowhere")
    found["folder"].mkdir()
    found["empty"].touch()
    contents = {
        "nulls": bytes(10_000),
        "binary": bytes(range(256)) * 100,
        "utf-16": "checkpoints: {}\n".encode("utf-16"),
        "half a surrogate": b'{"a": "\\ud800"}',
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "digits": b"9" * 10_000,
        "no end of line": b"x" * 1_000_000,
    }
    for name, content in contents.items():
        found[name] = folder / name.replace(" ", "-")
        found[name].write_bytes(content)
    found["socket"] = folder / "socket"
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path has at most 107 characters
        bound.bind("socket")
        os.chdir(here)
    found |= {"zero": Path("/dev/zero"), "random": Path("/dev/urandom"), "full": Path("/dev/full")}
    return found
