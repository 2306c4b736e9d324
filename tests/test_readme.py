"""Every command of the README is run as it stands there; links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.requirements import need

from evalkit.setup.assets import assets_folder
from evalkit.suite import load_suite

REPOSITORY = Path(__file__).parents[1]
ELSEWHERE = {
    "make demo": "test_make_demo_is_what_the_readme_says",
    "make test": "runs these tests",
    "pip install -e .": "is how the environment of these tests was made",
    "pip install -e '.[xiaomi]'": "likewise",
    "evalkit gate metaworld --checkpoint oracle --baseline metaworld-oracle": "tests/experiments runs it",
    "evalkit import xiaomi-logs published_logs/libero --out results/runs/released": "tests/importers runs it",
    "evalkit table results/runs/released --published": "needs the run before; tests/analysis runs it",
}


def shown() -> list[str]:
    """The commands in the README's shell blocks, comments dropped."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [command for line in lines if (command := re.sub(r"\s+#.*", "", line).strip())]


def test_the_readme_opens_with_its_two_commands() -> None:
    assert shown()[:2] == ["make demo", "make test"]


def test_make_demo_is_what_the_readme_says() -> None:
    """The demo's commands, without running its minute: `make test` runs the same setup and the same suite."""
    planned = subprocess.check_output(["make", "--dry-run", "demo"], cwd=REPOSITORY, text=True)
    assert "evalkit setup metaworld" in planned and "evalkit run metaworld --checkpoint oracle" in planned


@pytest.mark.sim
def test_every_other_command_runs_as_it_stands(tmp_path: Path) -> None:
    need("metaworld")
    need("libero")
    pytest.importorskip("transformers")
    environment = {
        **os.environ,
        "EVALKIT_LIBERO_ASSETS": str(assets_folder(load_suite("libero"))),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    server: subprocess.Popen[bytes] | None = None
    try:
        for command in shown():
            if command in ELSEWHERE:
                continue
            assert shlex.split(command)[0] in ("evalkit", "python"), f"{command}: say in ELSEWHERE what runs it"
            if command.startswith("evalkit serve"):
                server = subprocess.Popen(shlex.split(command), cwd=tmp_path, env=environment)
                continue
            result = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    finally:
        if server is not None:
            server.terminate()
            assert server.wait(timeout=30) == 0


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_there(document: str) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", (REPOSITORY / document).read_text())
    assert not [target for target in targets if not (REPOSITORY / target).exists()]
