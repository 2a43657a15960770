"""Large libraries are imported only where there is room for them.

Under a limit of addresses (RLIMIT_AS, `ulimit -v`) their C++ aborts, exits, or waits for a thread
for ever, where Python would raise MemoryError.
"""

import mmap
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from virnuc_rules.errors import EnvironmentProblem

# MB of addresses that must be free before an import: for the library, those that follow, and work.
_NEEDED = {
    "numpy": 400,
    "pyarrow": 400,
    "scipy": 300,
    "sklearn": 300,
    "matplotlib": 300,
    "torch": 1500,
}


class _Room:
    """Looks for room whenever a module is imported for the first time; finds no module itself."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name in _NEEDED:
            try:
                mmap.mmap(-1, _NEEDED[name] << 20, mmap.MAP_PRIVATE, mmap.PROT_READ).close()
            except OSError:
                raise EnvironmentProblem(
                    f"not enough memory: {name} needs {_NEEDED[name]} MB of addresses; "
                    "raise the limit (`ulimit -v`)"
                ) from None


def look_for_room() -> None:
    """Raise EnvironmentProblem instead of importing a large library without room for it."""
    # One thread: numpy's and scipy's are not used, and OpenBLAS hangs where it gets none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    if _Room not in sys.meta_path:
        sys.meta_path.insert(0, _Room)
