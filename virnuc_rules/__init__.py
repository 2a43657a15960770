"""VirNuc: find viral sequences in metagenomes. The library behind the workflow."""

import os

__version__ = "0.1.0"

# Read when pyarrow is first imported. Its own pool gives pages back between blocks and faults them
# in again: 10 % of the run time of `chunk`, and 40 MB more at the peak (benchmarks/chunk.py).
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
