"""The examples of docs/ as modules, for tests."""

import importlib.util
import sys

from tests.commands import ROOT


def load(name):
    """The module of docs/examples/NAME.py, run anew."""
    spec = importlib.util.spec_from_file_location(
        f"docs_example_{name}", ROOT / "docs" / "examples" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    # A runtime is found by its module's name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
