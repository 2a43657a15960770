"""With this folder in PYTHONPATH, torch says in every Python process that there is a GPU.

Only CUDA_VISIBLE_DEVICES= hides it, as tests/conftest.py does. Whatever computes on it fails. So a
test that would take the GPU of a machine fails here too (`make test` sets PYTHONPATH).
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def is_visible() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") != ""


class Pretender:
    """Finds `torch.cuda` where it is, and changes its answers once it is loaded."""

    @staticmethod
    def find_spec(name: str, path: Any = None, _: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "torch.cuda" else None
        if spec and (loader := spec.loader):
            load = loader.exec_module

            def load_and_pretend(module: ModuleType) -> None:
                load(module)
                module.is_available = is_visible  # type: ignore[attr-defined]
                module.device_count = lambda: int(is_visible())  # type: ignore[attr-defined]

            loader.exec_module = load_and_pretend  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Pretender)  # type: ignore[arg-type]
