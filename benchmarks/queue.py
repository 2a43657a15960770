"""Speed of the queue: see `claims.py`, which this runs. `simulation.py` is for a thousand workers.

python benchmarks/queue.py [options of claims.py]
"""

import importlib
import sys
from pathlib import Path

# Python looks for modules in the folder of a script first, and the standard library has a module
# `queue` too: an `import queue`, here or in another benchmark, must get that one and not this file.
_BEFORE, _HERE = list(sys.path), Path(__file__).parent.resolve()
sys.path[:] = [folder for folder in _BEFORE if Path(folder).resolve() != _HERE]
sys.modules.pop("queue", None)
importlib.import_module("queue")
sys.path[:] = _BEFORE

if __name__ == "__main__":
    from claims import main

    main()
