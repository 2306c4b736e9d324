"""The reference pages in docs/ are those of the schema, and say something about every key."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest
import yaml
from support.paths import REPOSITORY

from evalkit.documents import parse
from evalkit.policies.checkpoint import Listing
from evalkit.policies.process.family import FamilyFile
from evalkit.suite import Suite, Tasks

GENERATOR: dict[str, Any] = runpy.run_path(str(REPOSITORY / "docs" / "generate_reference.py"))
PAGES: dict[str, str] = GENERATOR["pages"]()


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_current(name: str) -> None:
    page = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    assert page == PAGES[name], "stale: run python docs/generate_reference.py"


@pytest.mark.parametrize("model", [Suite, Listing, FamilyFile])
def test_every_key_has_a_description(model: Any) -> None:
    for path, section in GENERATOR["walk"](model, ""):
        for key, field in section.model_fields.items():
            assert field.description, f"{path}.{key} has no description"


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_section_has_its_heading(name: str) -> None:
    headings = [
        re.sub(r"[^a-z0-9_ -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.*)$", PAGES[name], re.M)
    ]
    links = re.findall(r"\(#([\w-]*)\)", PAGES[name])
    assert (links or len(headings) == 1) and set(links) <= set(headings)


def test_the_examples_in_the_reference_are_valid() -> None:
    for name, model in {"suite-yaml.md": Tasks, "checkpoint-files.md": Listing, "family-yaml.md": FamilyFile}.items():
        (example,) = re.findall(r"```yaml\n(.*?)```", PAGES[name], re.S)
        parse(model, yaml.safe_load(example), name)
