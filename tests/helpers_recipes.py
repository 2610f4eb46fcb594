"""The scripts in recipes/ as modules: they are no part of the package."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from lungseg_utils.runtime import ROOT


def load_recipe(name: str) -> ModuleType:
    """Import recipes/`name`.py."""
    path = ROOT / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module
