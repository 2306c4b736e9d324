"""The start of a worker (or a conformance trial) in a suite's Python environment, where evalkit is not installed.

Run by path: ``python -I .../evalkit/worker/_bootstrap.py FD`` (or ``trial``). Only the ``evalkit`` package becomes
importable, not its parent folder, so that nothing else of the host's environment is visible.
"""

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
    if sys.argv[1] == "trial":
        from evalkit.worker.conformance import main

        main()
    else:
        from evalkit.worker.loop import main as serve

        serve(int(sys.argv[1]))
