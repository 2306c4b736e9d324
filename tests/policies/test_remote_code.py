"""Code that comes with a checkpoint runs only if it was trusted, and is then the code that was hashed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.errors import EvalkitError, PolicyProblem, UsageError
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.policies.remote_code import check_imported, code_files, references
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0.loading import load
from evalkit.suite import load_suite

pytestmark = pytest.mark.torch


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """Return a file that exists once planted code has run."""
    return tmp_path / "it-ran"


def plant(file: Path, witness: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"open({str(witness)!r}, 'w').close()\nclass MiBoTForActionGeneration: pass\n")


def refer(folder: Path, reference: Any, file: str = "config.json", name: str = "AutoModel") -> None:
    content = json.loads((folder / file).read_text())
    auto_map = {**content.get("auto_map", {}), name: reference}
    (folder / file).write_text(json.dumps({**content, "auto_map": auto_map}))


def built(folder: Path, trusted: bool) -> Any:
    return find_checkpoint(f"{folder}:trust_remote_code={str(trusted).lower()}").build(load_suite("libero"))


@pytest.mark.parametrize("place", ["code/modeling", ".hidden/modeling", "a/b/modeling"])
def test_code_in_a_subfolder_is_code(copy: Path, witness: Path, place: str) -> None:
    for file in copy.glob("*.py"):
        file.unlink()
    plant(copy / f"{place}.py", witness)
    refer(copy, f"{place}.MiBoTForActionGeneration")
    with pytest.raises(UsageError, match=r"contains Python code|must be module\.Class"):
        built(copy, trusted=False)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("file", "shape"),
    [("config.json", "{}"), ("preprocessor_config.json", ["{}", None]), ("tokenizer_config.json", [None, "{}"])],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_reference_elsewhere_is_refused_whoever_is_trusted(
    copy: Path, witness: Path, tmp_path: Path, file: str, shape: Any, trusted: bool
) -> None:
    plant(tmp_path / "elsewhere" / "modeling.py", witness)
    reference = f"{tmp_path / 'elsewhere'}--modeling.MiBoTForActionGeneration"
    filled = [one and one.format(reference) for one in shape] if isinstance(shape, list) else shape.format(reference)
    if not trusted:  # nothing but the reference shows that there is code
        for code in copy.glob("*.py"):
            code.unlink()
        for named in ("config.json", "preprocessor_config.json"):
            content = json.loads((copy / named).read_text())
            (copy / named).write_text(json.dumps({**content, "auto_map": {}}))
    refer(copy, filled, file)
    with pytest.raises(UsageError, match=rf"{file}: auto_map: .*must be module\.Class, in the checkpoint's own folder"):
        built(copy, trusted)
    assert not witness.exists()


@pytest.mark.parametrize(
    "reference",
    [
        "org/other--modeling.C",
        "../modeling.C",
        "code/../../modeling.C",
        "/etc/modeling.C",
        "~/modeling.C",
        "modeling",
        "modeling.sub.C",
        "C:\\modeling.C",
        "modeling.C\n",
        "",
        7,
        {"a": "b.c"},
    ],
)
def test_only_modules_of_the_folder_can_be_named(copy: Path, reference: Any) -> None:
    refer(copy, reference)
    with pytest.raises(UsageError, match=r"config\.json: auto_map"):
        references(copy)


def test_references_are_found_wherever_they_are(copy: Path) -> None:
    own = {"configuration_mibot.MiBoTConfig", "modeling_mibot.MiBoTForActionGeneration"}
    assert set(references(copy)) == own | {"processing_mibot.MiBotProcessor"}
    (copy / "deeper").mkdir()
    (copy / "deeper" / "more.json").write_text(json.dumps({"a": [{"auto_map": {"AutoModel": "org/x--m.C"}}]}))
    with pytest.raises(UsageError, match=r"deeper/more\.json: auto_map: 'org/x--m\.C'"):
        references(copy)
    (copy / "deeper" / "more.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"more\.json: cannot be read"):
        references(copy)


def test_a_missing_module_is_named(copy: Path) -> None:
    (copy / "modeling_mibot.py").unlink()
    with pytest.raises(EvalkitError, match=r"'modeling_mibot\.MiBoT.*': there is no modeling_mibot\.py in"):
        built(copy, trusted=True)


def test_an_adapter_of_another_model_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(UsageError, match=r"adapter_config\.json: its base model would come from elsewhere"):
        built(copy, trusted=True)


def test_code_of_every_depth_is_part_of_the_identity(copy: Path) -> None:
    def identity() -> str:
        return str(locate(str(copy), None, True).identity["code_sha256"])

    flat = identity()
    (copy / "code").mkdir()
    (copy / "code" / "more.py").write_text("pass\n")
    deeper = identity()
    (copy / "code" / "more.py").write_text("pass  # changed\n")
    assert len({flat, deeper, identity()}) == 3


def test_the_imported_code_is_the_hashed_code(copy: Path) -> None:
    files = locate(str(copy), None, True)
    loaded = load(files, "auto", "auto", "auto")
    objects = (loaded.model, loaded.model.config, loaded.processor)
    check_imported(copy, files.code, *objects)
    (copy / "modeling_mibot.py").write_text((copy / "modeling_mibot.py").read_text() + "# changed\n")
    with pytest.raises(PolicyProblem, match="its code changed while it was being loaded"):
        check_imported(copy, files.code, *objects)
    with pytest.raises(PolicyProblem, match=r"modeling_mibot\.py: this imported module is no file of"):
        check_imported(copy, code_files(copy), *objects)
