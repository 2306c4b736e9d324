"""A checkpoint on the hub is asked about once, and the answer kept: the real client, and a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from support.commands import invoke, refused
from support.hub import Hub, hub_checkpoint, hub_environment, serve_hub, use_hub
from support.paths import POINTMASS
from support.terminals import on_a_terminal

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.policies import hub as client
from evalkit.policies.checkpoint import Checkpoint, find_checkpoint, load_checkpoints
from evalkit.policies.hub import Snapshot
from evalkit.policies.lock import read_lock
from evalkit.policies.trust import Trust, confirm
from evalkit.suite import load_suite

pytestmark = pytest.mark.slow

REPOSITORY = "someone/some-vla"
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"auto_map": {"AutoModel": "modeling.Model"}}',
    "modeling.py": b"raise RuntimeError('imported')\n",
    "code/helper.py": b"raise RuntimeError('imported')\n",
    "model.safetensors": WEIGHTS,
}


class Answer:
    """A user who answers every question the same, and remembers the questions."""

    def __init__(self, answer: bool = True) -> None:
        self.answer = answer
        self.questions: list[str] = []

    def __call__(self, question: str) -> bool:
        self.questions.append(question)
        return self.answer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, and this process's client pointed at it."""
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EVALKIT_LOCK", raising=False)
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)
    monkeypatch.chdir(tmp_path)
    with serve_hub() as served:
        served.publish(REPOSITORY, FILES)
        use_hub(monkeypatch, served.url, tmp_path / "cache")
        yield served


@pytest.fixture
def own(tmp_path: Path, hub: Hub) -> Path:
    return hub_checkpoint(tmp_path / "own", REPOSITORY)


def found(own: Path, settings: str = "") -> Checkpoint:
    return find_checkpoint(f"mine:{settings}" if settings else "mine", own)


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    return dict(checkpoint.build(load_suite(POINTMASS)).spec.metadata)


def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")


def snapshot(commit: str) -> Path:
    return Snapshot(REPOSITORY, commit, None).folder


# The first use, and those after it


def test_the_first_use_asks_once_and_the_next_needs_no_hub(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, commit = Answer(), hub.branches[REPOSITORY]["main"]
    first = confirm(found(own), Trust(ask=user))
    (question,) = user.questions
    for shown in (commit, "modeling.py", "code/helper.py", hashlib.sha256(FILES["modeling.py"]).hexdigest()[:12]):
        assert shown in question
    folder = next(line for line in question.splitlines() if line.startswith("/"))
    assert (Path(folder) / "modeling.py").read_bytes() == FILES["modeling.py"]
    assert identity(first)["source"] == REPOSITORY and identity(first)["revision"] == commit
    assert first.identity()["parameters"]["revision"] == commit
    entry = read_lock(tmp_path / "home" / "evalkit.lock").repositories[REPOSITORY]
    assert entry.revisions == {"HEAD": commit}
    assert entry.commits[commit].code["modeling.py"].size == len(FILES["modeling.py"])
    assert entry.commits[commit].by == "an answer on the terminal"

    unreachable(monkeypatch, tmp_path)
    hub.log.clear()
    again = confirm(found(own), Trust())
    assert again.parameters == first.parameters and identity(again) == identity(first) and not hub.log


def test_no_is_no_and_nothing_more_is_downloaded(hub: Hub, own: Path, tmp_path: Path) -> None:
    user = Answer(False)
    for _ in range(2):
        with pytest.raises(UsageError, match="some-vla: its code was not allowed to run"):
            confirm(found(own), Trust(ask=user))
    assert len(user.questions) == 2 and not (tmp_path / "home" / "evalkit.lock").exists()
    assert not any("model.safetensors" in path for path in hub.paths())


def test_without_a_terminal_a_flag_answers(hub: Hub, own: Path, tmp_path: Path) -> None:
    arguments = ("run", POINTMASS, "--checkpoint", "mine", "--checkpoint-file", own, "--episodes", 1, "--workers", 1)
    message = refused(invoke(*arguments, "--out", tmp_path / "a"))
    assert "contains Python code, and there is no terminal to ask: read it in /" in message
    assert "allow it with --trust-remote-code, or name a lock file that allows it with --lock FILE" in message
    assert invoke(*arguments, "--out", tmp_path / "b", "--trust-remote-code").exit_code == 0
    entry = read_lock(tmp_path / "home" / "evalkit.lock").repositories[REPOSITORY]
    assert [one.by for one in entry.commits.values()] == ["--trust-remote-code"]
    assert invoke(*arguments, "--out", tmp_path / "c").exit_code == 0


def test_a_server_asks_too(hub: Hub, own: Path) -> None:
    line = refused(invoke("serve", "--checkpoint", "mine", "--checkpoint-file", own, "--suite", POINTMASS))
    assert "contains Python code, and there is no terminal to ask" in line


def test_a_checkpoint_of_another_suite_is_refused_before_anything_is_asked(hub: Hub, tmp_path: Path) -> None:
    own = hub_checkpoint(tmp_path / "own", REPOSITORY, suites=["libero"])
    line = refused(invoke("run", POINTMASS, "--checkpoint", "mine", "--checkpoint-file", own, "--trust-remote-code"))
    assert "checkpoint 'mine' is for libero, not for pointmass" in line and not hub.log


def test_a_project_has_a_lock_file_of_its_own_if_it_is_named(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", POINTMASS, "--checkpoint", "mine", "--checkpoint-file", own, "--episodes", 1, "--workers", 1)
    assert invoke(*arguments, "--out", "a", "--lock", "evalkit.lock", "--trust-remote-code").exit_code == 0
    assert not (tmp_path / "home" / "evalkit.lock").exists()
    assert "(--lock evalkit.lock takes the one in this folder)" in refused(invoke(*arguments, "--out", "b"))
    use_hub(monkeypatch, hub.url, tmp_path / "cache-of-a-colleague")
    before = Path("evalkit.lock").stat().st_mtime_ns
    assert invoke(*arguments, "--out", "b", env={"EVALKIT_LOCK": "evalkit.lock"}).exit_code == 0
    assert Path("evalkit.lock").stat().st_mtime_ns == before, "a checkout may be read-only"


def test_a_file_can_allow_code_or_forbid_it(hub: Hub, own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains Python code, and trust_remote_code is false"):
        confirm(found(own, "trust_remote_code=false"), Trust(yes=True))
    allowed = hub_checkpoint(tmp_path / "allowed", REPOSITORY, trust_remote_code=True)
    confirm(found(allowed), Trust())
    with pytest.raises(UsageError, match="contains Python code, and trust_remote_code is false"):
        confirm(found(own, "trust_remote_code=false"), Trust())


def test_no_shipped_checkpoint_answers_for_the_user() -> None:
    released = [entry for entry in load_checkpoints().values() if entry.source]
    assert len(released) == 6
    assert all(entry.trust_remote_code is None and entry.revision is None for entry in released)


def test_a_repository_without_code_is_pinned_without_a_question(hub: Hub, tmp_path: Path) -> None:
    commit = hub.publish("someone/plain", {"config.json": b"{}", "model.safetensors": WEIGHTS})
    own = hub_checkpoint(tmp_path / "plain", "someone/plain")
    checkpoint = confirm(found(own), Trust())
    assert identity(checkpoint)["revision"] == commit and checkpoint.parameters["trust_remote_code"] is False


def test_a_known_revision_is_mentioned(hub: Hub, tmp_path: Path) -> None:
    commit, user = hub.branches[REPOSITORY]["main"], Answer(False)
    for named, text in (("a" * 40, "A Project names\nanother commit, which"), (commit, "A Project names the same")):
        own = hub_checkpoint(tmp_path / "own", REPOSITORY, known_revision={"commit": named, "named_by": "A Project"})
        with pytest.raises(UsageError):
            confirm(found(own), Trust(ask=user))
        assert " ".join(text.split()) in " ".join(user.questions[-1].split())
    assert f"--checkpoint mine:revision={'a' * 40}" in user.questions[0]


def test_the_question_fits_80_columns(hub: Hub, tmp_path: Path) -> None:
    known = {
        "commit": "a" * 40,
        "named_by": "A Project with a long name (a-file-with-a-longer-name.yaml at bc062d7ac08b)",
    }
    own = hub_checkpoint(tmp_path / "own", REPOSITORY, known_revision=known)
    files = {**FILES, f"{'deeper/' * 8}a_module_with_a_long_name.py": b"pass\n", "evil\x1b[2J.py": b"pass\n"}
    hub.publish(REPOSITORY, files)
    user = Answer()
    confirm(found(own), Trust(ask=user))
    hub.publish(REPOSITORY, {**files, "modeling.py": b"pass\n"})
    confirm(found(own, "revision=main"), Trust(ask=user))
    for question in user.questions:
        assert question.endswith("\n\nRun this code? [y/N] ") and "\x1b" not in question
        whole = ("/", "  --checkpoint ")  # to be copied
        assert [line for line in question.splitlines() if len(line) > 80 and not line.startswith(whole)] == []


# Another commit, other code


def test_a_moved_branch_is_not_followed_until_it_is_named(hub: Hub, own: Path) -> None:
    user, first = Answer(), hub.branches[REPOSITORY]["main"]
    confirm(found(own), Trust(ask=user))
    changed = {name: data for name, data in FILES.items() if name != "code/helper.py"}
    second = hub.publish(REPOSITORY, {**changed, "modeling.py": b"pass\n", "new.py": b"pass\n"})
    assert confirm(found(own), Trust()).parameters["revision"] == first
    for revision in ("main", second):
        with pytest.raises(UsageError, match=f"at commit {second} contains Python code"):
            confirm(found(own, f"revision={revision}"), Trust())
    assert confirm(found(own, "revision=main"), Trust(ask=user)).parameters["revision"] == second
    question = user.questions[-1]
    assert f"You allowed commit {first}." in question
    for line in ("changed modeling.py", "added new.py", "removed code/helper.py"):
        assert f"  {line}\n" in question
    for revision, commit in (("", first), ("revision=main", second), (f"revision={second}", second)):
        assert confirm(found(own, revision), Trust()).parameters["revision"] == commit


def test_other_code_under_a_confirmed_commit_is_asked_about_and_no_option_allows_it(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, commit = Answer(), hub.branches[REPOSITORY]["main"]
    confirm(found(own), Trust(ask=user))
    hub.commits[REPOSITORY, commit] = {**FILES, "modeling.py": b"forged\n", "more.py": b"forged\n"}
    use_hub(monkeypatch, hub.url, tmp_path / "another-cache")
    for settings in ("", f"revision={commit},trust_remote_code=true"):
        with pytest.raises(UsageError, match=r"changed modeling\.py, added more\.py under commit .* no option allows"):
            confirm(found(own, settings), Trust(yes=True))
    with pytest.raises(UsageError, match="was not allowed to run"):
        confirm(found(own), Trust(ask=Answer(False)))
    confirm(found(own), Trust(ask=user))
    assert "WARNING: you allowed this very commit with other code" in user.questions[-1]
    assert "  changed modeling.py\n  added more.py" in user.questions[-1]


def test_code_that_was_changed_in_the_cache_is_restored_or_asked_about(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.branches[REPOSITORY]["main"]
    confirm(found(own), Trust(yes=True))
    folder = snapshot(commit)
    (folder / "modeling.py").write_bytes(b"x" * len(FILES["modeling.py"]))
    confirm(found(own), Trust())
    assert (folder / "modeling.py").read_bytes() == FILES["modeling.py"]
    (folder / "added.py").write_text("pass\n")
    with pytest.raises(UsageError, match=r"added added\.py under commit"):
        confirm(found(own), Trust(yes=True))
    (folder / "added.py").unlink()
    (folder / "modeling.py").write_bytes(b"changed")
    unreachable(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=r"changed modeling\.py under commit"):
        confirm(found(own), Trust(yes=True))


def test_the_policy_refuses_code_that_changed_after_it_was_confirmed(hub: Hub, own: Path) -> None:
    checkpoint = confirm(found(own), Trust(yes=True))
    (snapshot(str(checkpoint.parameters["revision"])) / "code" / "helper.py").write_text("changed\n")
    with pytest.raises(UsageError, match="its code is not the code that was allowed to run"):
        identity(checkpoint)


def test_an_unsafe_reference_is_refused_before_anything_is_asked(hub: Hub, own: Path) -> None:
    hub.publish(REPOSITORY, {**FILES, "config.json": b'{"auto_map": {"AutoModel": "other/repo--modeling.Model"}}'})
    user = Answer()
    with pytest.raises(UsageError, match=r"config\.json: auto_map: .* must be module\.Class"):
        confirm(found(own), Trust(yes=True, ask=user))
    assert not user.questions and not any("safetensors" in path for path in hub.paths())


def test_a_file_outside_the_repository_is_refused(hub: Hub, own: Path, tmp_path: Path) -> None:
    hub.publish(REPOSITORY, {**FILES, "../../../../planted.py": b"pass\n"})
    with pytest.raises(UsageError, match=r"planted\.py' is outside the repository's folder"):
        confirm(found(own), Trust(yes=True))
    assert not list(tmp_path.rglob("planted.py"))


# The hub's answers


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, "GatedRepo", "restricted"), r"is gated: accept its terms at .*/someone/some-vla, then log in with `hf"),
        ((403, "GatedRepo", "not in the list"), "is gated: accept its terms"),
        ((401, "RepoNotFound", "Invalid username"), "no such repository on the hub, or a private one; .* log in with"),
        ((404, "RepoNotFound", "Repository not found"), "no such repository on the hub, or a private one"),
        ((401, "", "Invalid credentials in Authorization header"), r"refuses access \(HTTP 401\): log in"),
    ],
)
@pytest.mark.parametrize("only_files", [False, True])
def test_a_refusal_of_the_hub_is_one_line(
    hub: Hub, own: Path, answer: tuple[int, str, str], message: str, only_files: bool
) -> None:
    (hub.refuse_files if only_files else hub.refuse)[REPOSITORY] = answer
    line = refused(invoke("run", POINTMASS, "--checkpoint", "mine", "--checkpoint-file", own, "--trust-remote-code"))
    assert re.search(message, line), line


def test_a_hub_that_is_down_is_one_line(hub: Hub, own: Path) -> None:
    for status, message in (
        (429, "the hub failed: .*429"),
        (503, r"not \(all\) on this machine: .*503.*mine:source=DIR"),
    ):
        hub.refuse[REPOSITORY] = (status, "", "Down")
        with pytest.raises(EnvironmentProblem, match=message):
            confirm(found(own), Trust(yes=True))


def test_a_name_that_does_not_exist_is_explained(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the hub has no revision 'nowhere' of it"):
        confirm(found(own, "revision=nowhere"), Trust(yes=True))
    with pytest.raises(UsageError, match=r"no such repository .*\(and there is no directory no/such\)"):
        confirm(find_checkpoint("no/such"), Trust(yes=True))
    unreachable(monkeypatch, tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"the hub cannot be reached .*name a copy .*mine:source=DIR"):
        confirm(found(own), Trust(yes=True))


def test_what_was_downloaded_by_other_means_is_used_offline(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.branches[REPOSITORY]["main"]
    from huggingface_hub import snapshot_download

    snapshot_download(REPOSITORY)
    unreachable(monkeypatch, tmp_path)
    user = Answer()
    assert confirm(found(own), Trust(ask=user)).parameters["revision"] == commit
    assert "The hub cannot be reached. This is the commit that was downloaded last." in user.questions[0]
    assert identity(confirm(found(own), Trust()))["revision"] == commit


def test_a_download_that_is_cut_goes_on_where_it_was(hub: Hub, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut["model.safetensors"] = [40_500, 0, 30_500]
    checkpoint = confirm(found(own), Trust(yes=True))
    assert (snapshot(str(checkpoint.parameters["revision"])) / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [range for method, path, range in hub.log if method == "GET" and path.endswith("model.safetensors")]
    assert ranges[0] is None and len(ranges) == 4 and None not in ranges[1:]


def test_a_download_that_stays_cut_is_given_up_and_resumed_by_the_next_command(
    hub: Hub, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut["model.safetensors"] = [40_500, *[0] * 40]
    with pytest.raises(EnvironmentProblem, match="the hub broke off the download; repeat the command"):
        confirm(found(own), Trust(yes=True))
    hub.cut.clear()
    hub.log.clear()
    keeps_parts = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2]) < (1, 17)
    room = 70_000 if keeps_parts else 110_000  # bytes: enough for the rest
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    confirm(found(own), Trust())
    ranges = [range for method, path, range in hub.log if method == "GET" and path.endswith("model.safetensors")]
    assert len(ranges) == 1
    if keeps_parts:
        assert ranges[0] is not None and ranges[0].startswith("bytes=")


@pytest.mark.parametrize("served", [b"\0" * len(WEIGHTS), b"\0" * 900, WEIGHTS + b"more"])
def test_weights_that_differ_from_the_stated_hash_are_refused_and_removed(hub: Hub, own: Path, served: bytes) -> None:
    hub.served["model.safetensors"] = served
    with pytest.raises(EnvironmentProblem, match=r"model\.safetensors: the download differs from the size"):
        confirm(found(own), Trust(yes=True))
    hub.served.clear()
    checkpoint = confirm(found(own), Trust())
    assert (snapshot(str(checkpoint.parameters["revision"])) / "model.safetensors").read_bytes() == WEIGHTS


def test_half_a_file_in_the_cache_is_downloaded_again(hub: Hub, own: Path) -> None:
    checkpoint = confirm(found(own), Trust(yes=True))
    weights = snapshot(str(checkpoint.parameters["revision"])) / "model.safetensors"
    weights.write_bytes(WEIGHTS[:1000])
    confirm(found(own), Trust())
    assert weights.read_bytes() == WEIGHTS


def test_too_small_a_disk_is_noticed_before_the_question(hub: Hub, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    user = Answer()
    with pytest.raises(EnvironmentProblem, match=r"needs 102\.5 kB more in .*, where 50\.0 kB are free: .*set HF_HOME"):
        confirm(found(own), Trust(ask=user))
    assert not user.questions


# The lock file


def test_two_at_once_ask_once(hub: Hub, own: Path) -> None:
    asked, answered, waits = threading.Event(), threading.Event(), threading.Event()
    questions: list[str] = []

    def ask(question: str) -> bool:
        questions.append(question)
        asked.set()
        return answered.wait(20)

    results: list[Checkpoint] = []

    def use() -> None:
        results.append(confirm(found(own), Trust(ask=ask, note=lambda _: waits.set())))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert asked.wait(20) and waits.wait(20)
    answered.set()
    for thread in threads:
        thread.join(20)
    assert len(questions) == 1 and len(results) == 2 and results[0].parameters == results[1].parameters


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2] + "\n ]", "not valid YAML at line"),
        (lambda text: "", "must be a mapping"),
        (lambda text: text.replace("size:", "bytes:"), "unknown key; known here: sha256, size"),
        (lambda text: text.replace("sha256: ", "sha256: 0"), r"helper\.py.sha256: String should match"),
        (lambda text: text.replace("by: --trust-remote-code", "by: somebody"), r"by: Input should be 'an answer on"),
        (lambda text: text.replace("modeling.py", "../modeling.py"), "'../modeling.py' is outside the repository's"),
        (lambda text: text.replace("version: 1", "version: 2"), "version"),
    ],
)
def test_a_damaged_lock_file_is_named(hub: Hub, own: Path, tmp_path: Path, damage: Any, message: str) -> None:
    confirm(found(own), Trust(yes=True))
    path = tmp_path / "home" / "evalkit.lock"
    path.write_text(damage(path.read_text()))
    line = refused(invoke("run", POINTMASS, "--checkpoint", "mine", "--checkpoint-file", own, "--trust-remote-code"))
    assert f"{path}: " in line and "restore this lock file, or remove it" in line
    assert re.search(message, line), line


def test_a_revision_without_its_commit_is_refused(hub: Hub, own: Path, tmp_path: Path) -> None:
    confirm(found(own), Trust(yes=True))
    path = tmp_path / "home" / "evalkit.lock"
    content = yaml.safe_load(path.read_text())
    content["repositories"][REPOSITORY]["revisions"]["HEAD"] = "b" * 40
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=r"evalkit\.lock: .*revisions\.HEAD: commit b+ is not among the commits"):
        confirm(found(own), Trust(yes=True))


def test_a_lock_file_that_cannot_be_written_is_refused_before_the_question(hub: Hub, own: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    user = Answer()
    for path in (tmp_path / "file" / "evalkit.lock", tmp_path):
        with pytest.raises(UsageError, match=rf"{path}: the lock file cannot be|{path}: cannot be read"):
            confirm(found(own), Trust(ask=user, lock=path))
    assert not user.questions


def test_a_link_to_a_lock_file_stays_a_link(hub: Hub, own: Path, tmp_path: Path) -> None:
    (tmp_path / "link.lock").symlink_to(tmp_path / "real.lock")
    confirm(found(own), Trust(yes=True, lock=tmp_path / "link.lock"))
    assert (tmp_path / "link.lock").is_symlink() and read_lock(tmp_path / "real.lock").repositories


# On a terminal


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"\n", 2), (b"\x04", 2)])
def test_the_question_on_a_terminal(hub: Hub, own: Path, tmp_path: Path, typed: bytes, code: int) -> None:
    arguments = ["run", POINTMASS, "--checkpoint", "mine", "--checkpoint-file", str(own), "--episodes", "1", "--json"]
    environment = {**hub_environment(hub.url, tmp_path / "fresh"), "COLUMNS": "80"}
    status, printed, shown = on_a_terminal([*arguments, "--out", str(tmp_path / "run")], b"[y/N] ", typed, environment)
    assert status == code and shown.count("Run this code? [y/N]") == 1
    if code:
        assert printed == "" and "evalkit: someone/some-vla: its code was not allowed to run" in shown
        return
    assert json.loads(printed)["checkpoint"] == "mine"
    assert "model.safetensors" in shown and "100%" in shown, "the progress of the download"
    metadata = json.loads((tmp_path / "run" / "manifest.json").read_text())["checkpoint"]["metadata"]
    assert set(metadata) == {"source", "revision", "code_sha256", "config_sha256"}
    assert metadata["revision"] == hub.branches[REPOSITORY]["main"]
