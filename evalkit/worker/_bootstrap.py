"""The start of one of evalkit's modules in another Python environment, where evalkit is not installed.

Run by path: ``python -I .../evalkit/worker/_bootstrap.py MODULE ARGUMENT...`` calls ``evalkit.MODULE.main``. Only the
``evalkit`` package becomes importable, not its parent folder: nothing else of the host's environment is visible.
"""

import importlib
import importlib.util
import pathlib
import sys


def _make_evalkit_importable() -> None:
    folder = pathlib.Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "evalkit", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evalkit"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _make_evalkit_importable()
    importlib.import_module(f"evalkit.{sys.argv[1]}").main(*sys.argv[2:])
