"""A process as a worker is one: from its start to the first micro-batch, then the bytes of chunks.

    python benchmarks/gpu_start.py --size 3B --device cuda --order 0 1 2

`gpu.py` starts it with an empty and a full cache of compiled layers. Prints a line of JSON. The
weights are random and made on the device: their way from the disk is not in the time.
"""

import time

_BEGUN = time.time()

import argparse  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from random_networks import frames, make_bundle  # noqa: E402

from virnuc_rules.config.model import Embedding  # noqa: E402
from virnuc_rules.embedding.embed import Networks, embed_chunk  # noqa: E402

_CUTS = (0, 0, 0, 1, 40, 60, 61)  # codons: lengths that are equal, padded, and of many kinds
CHUNKS = 3


def hashes(networks: Networks, order: list[int], rows: int) -> dict[str, str]:
    """The sha256 of the embeddings of the chunks, by number, in some order."""
    found = {}
    for number in order:
        result = embed_chunk(frames(rows + 7 * number, 100 + number, _CUTS), networks, Embedding())
        matrices = torch.cat([result.dnabert_s, result.esm2], dim=1)
        found[str(number)] = hashlib.sha256(matrices.numpy().tobytes()).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rows", type=int, default=64, help="of the chunks that are hashed")
    parser.add_argument("--order", type=int, nargs="+", default=[*range(CHUNKS)])
    parser.add_argument("--began", type=float, default=_BEGUN, help="by time.time()")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    imported = time.time()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder) / "bundle", options.size)
        networks = Networks.open(bundle, device, options.precision)
    opened = time.time()
    embed_chunk(frames(8, seed=1), networks, Embedding())
    done = time.time()
    print(json.dumps({
        "seconds": done - options.began,
        "imports": imported - options.began,
        "networks_and_compiling": opened - imported,
        "first_micro_batch": done - opened,
        "compiled": networks.compiled,
        "sha256": hashes(networks, options.order, options.rows),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
