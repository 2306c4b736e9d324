"""Asset folders: files that a suite needs and its packages do not contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.locations import expanded, given_folder, home_folder, remember_folder
from evalkit.suite import Suite


def assets_folder(suite: Suite) -> Path | None:
    """Return the suite's asset folder from its environment variable, else as recorded by ``evalkit setup``, or None."""
    if suite.assets is None:
        return None
    return given_folder(suite.name, "assets", suite.assets.variable)


def set_assets(suite: Suite, folder: Path) -> None:
    """Record the suite's asset folder. Raises UsageError if the suite needs none or the folder does not exist."""
    if suite.assets is None:
        raise UsageError(f"--assets: {suite.name} carries its own assets")
    if folder == Path():
        raise UsageError("--assets: name the folder with the assets (got nothing, or the current folder)")
    folder = expanded(folder).absolute()
    if not folder.is_dir():
        raise UsageError(f"--assets {folder}: no such folder")
    remember_folder(suite.name, "assets", folder)


def download_assets(suite: Suite, say: Callable[[str], None]) -> Path:
    """Download the suite's assets from the Hugging Face hub and return their folder. Raises EnvironmentProblem."""
    assert suite.assets is not None
    target = home_folder() / "assets" / suite.name
    say(f"downloading assets from huggingface.co/{suite.assets.hub} to {target}")
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(suite.assets.hub, repo_type="dataset", local_dir=target)
    except Exception as error:  # the hub raises many kinds, from several libraries
        raise EnvironmentProblem(
            f"{suite.name}: its assets could not be downloaded ({type(error).__name__}); give a local copy with "
            f"`evalkit setup {suite.name} --assets DIR` or {suite.assets.variable}"
        ) from error
    return target / suite.assets.folder
