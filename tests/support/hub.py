"""A Hugging Face hub on the loopback interface, for the real ``huggingface_hub`` client.

It has the endpoints that the client uses: ``/api/models/REPO[/revision/REV]`` with the files of a commit, their sizes
and hashes, and ``/REPO/resolve/REV/PATH`` with ETag, X-Repo-Commit, Content-Length and ranges. Faults are attributes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


class Hub:
    """The state of the hub: repositories, and the faults to show.

    Attributes:
        url: its address.
        branches: repository → branch or tag → commit.
        commits: (repository, commit) → path → content.
        log: method, path and range of every request.
        refuse: repository → (HTTP status, X-Error-Code, X-Error-Message) for every request about it.
        refuse_files: the same, for requests of files alone.
        cut: path → bytes after which the connection breaks; once for each entry of the list.
        served: path → content that is sent instead of the stated one, with its own length.
        stated: path → size stated instead of the real one.
    """

    def __init__(self) -> None:
        self.url = ""
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.log: list[tuple[str, str, str | None]] = []
        self.refuse: dict[str, tuple[int, str, str]] = {}
        self.refuse_files: dict[str, tuple[int, str, str]] = {}
        self.cut: dict[str, list[int]] = {}
        self.served: dict[str, bytes] = {}
        self.stated: dict[str, int] = {}

    def publish(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit to a branch and return it."""
        content = "".join(f"{name}\0{hashlib.sha1(files[name]).hexdigest()}\n" for name in sorted(files))
        commit = hashlib.sha1(f"{repository}{content}".encode()).hexdigest()
        self.commits[repository, commit] = dict(files)
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    def paths(self) -> list[str]:
        """Return the paths that were asked for since the last call."""
        found = [path for _, path, _ in self.log]
        self.log.clear()
        return found


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve a hub until the context ends."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        _forget_sessions()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Point the client of this process at a hub and at an empty cache."""
    from huggingface_hub import constants, file_download

    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _forget_sessions()


def _forget_sessions() -> None:
    """Close the client's connections, which know whether they may reach a network."""
    from huggingface_hub import utils

    for name in ("reset_sessions", "close_session"):  # before 1.0, and since
        getattr(utils, name, lambda: None)()


def hub_environment(url: str, folder: Path) -> dict[str, str]:
    """Return the variables that point a process at a hub, and evalkit and the client at a folder for their files."""
    return {
        "HF_ENDPOINT": url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0", "EVALKIT_HOME": str(folder / "home")
    }  # fmt: skip


POLICY = """
from dataclasses import replace

from evalkit.policies.checkpoint import HubParameters
from evalkit.policies.scripted import ScriptedParameters, Zero
from evalkit.policies.weights import locate


def Mine(suite, parameters: HubParameters):
    files = locate(
        parameters.source, parameters.revision, parameters.trust_remote_code, code_sha256=parameters.code_sha256
    )
    policy = Zero(suite, ScriptedParameters())
    policy.spec = replace(policy.spec, metadata=files.identity)
    return policy
"""


def hub_checkpoint(folder: Path, repository: str, **fields: object) -> Path:
    """Write a checkpoint file with the entry ``mine``: a policy with weights on a hub, but without a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hub_policy.py").write_text(POLICY)
    entry = {"summary": "mine", "policy": "hub_policy:Mine", "source": repository, **fields}
    path = folder / "own.yaml"
    path.write_text(json.dumps({"checkpoints": {"mine": entry}}))
    return path


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.state, unquote(urlsplit(self.path).path)
        hub.log.append((self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2], "blobs" in parse_qs(urlsplit(self.path).query))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            files = hub.commits[match[1], match[2]]
            return self._json([self._leaf(self._sibling(name, data, True)) for name, data in files.items()])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3], body)
        return self._error(404, "", "no such page")

    def _info(self, repository: str, revision: str | None, blobs: bool) -> None:
        hub = self.state
        if repository in hub.refuse:
            return self._error(*hub.refuse[repository])
        if repository not in hub.branches:
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        commit = hub.branches[repository].get(revision or "main", revision or "")
        if (repository, commit) not in hub.commits:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [self._sibling(name, data, blobs) for name, data in hub.commits[repository, commit].items()]
        return self._json({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings})

    @staticmethod
    def _leaf(sibling: dict[str, Any]) -> dict[str, Any]:
        lfs = {"lfs": {"oid": sibling["lfs"]["sha256"], **sibling["lfs"]}} if "lfs" in sibling else {}
        return {
            "type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"], **lfs
        }  # fmt: skip

    def _json(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _sibling(self, name: str, data: bytes, blobs: bool) -> dict[str, Any]:
        if not blobs:
            return {"rfilename": name}
        size = self.state.stated.get(name, len(data))
        found: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git_hash(data)}
        if name.endswith(".safetensors"):
            sha256 = hashlib.sha256(data).hexdigest()
            found["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
        return found

    def _file(self, repository: str, revision: str, name: str, body: bool) -> None:
        hub = self.state
        for refusals in (hub.refuse, hub.refuse_files):
            if repository in refusals:
                return self._error(*refusals[repository])
        commit = hub.branches.get(repository, {}).get(revision, revision)
        data = hub.commits.get((repository, commit), {}).get(name)
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        etag = hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else git_hash(data)
        data = hub.served.get(name, data)
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        part = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        cuts = hub.cut.get(name)
        if body and cuts:
            self.send_header("Connection", "close")
        self.end_headers()
        if not body:
            return None
        if cuts:
            self.wfile.write(part[: cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(part)
        return None

    def _error(self, status: int, code: str, message: str) -> None:
        text = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def git_hash(data: bytes) -> str:
    """Return git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
