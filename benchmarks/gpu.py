"""Speed on a GPU: every way to compute, the whole worker, start times, and whether bytes are equal.

    python benchmarks/gpu.py [--sizes 3B 650M] [--out gpu.json]
    python benchmarks/gpu.py --device cpu --sizes tiny     # tries all of it out

One process, no network access; random weights in the shapes of the published networks, drawn on the
device; frames of 166 residues. A step that fails says why, the others go on, and the exit code is
1. The JSON file is written after each step. "Half precision" is fp16; on a CPU it stands for fp32,
and steps for CUDA are left out, with the reason.
"""

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_rows as rows
import gpu_worker
import torch
from random_networks import frames, make_bundle
from shapes import ESM2

from virnuc_rules.models.device import choose_device, clear_caches

Step = Callable[[], dict[str, Any]]
# Frames of each row: a few seconds of an H100. The other sizes take those of "tiny" or "650M".
_FRAMES = {
    "3B": {"original": 96, "fp32": 192, "tf32": 768, "half": 2048},
    "650M": {"original": 384, "fp32": 768, "tf32": 3072, "half": 8192},
    "tiny": {"original": 16, "fp32": 24, "tf32": 24, "half": 48},
}
_UNITS = {  # of the columns that are printed: name, factor, format
    "frames_per_second": ("frames/s", 1, "{:,.0f}"),
    "tokens_per_second": ("tokens/s", 1, "{:,.0f}"),
    "esm2_frames_per_second": ("ESM-2 alone", 1, "{:,.0f}"),
    "dnabert_s_frames_per_second": ("DNABERT-S alone", 1, "{:,.0f}"),
    "dnabert_s_share": ("DNABERT-S", 100, "{:.1f} % of the time"),
    "esm2_tflops": ("TFLOP/s", 1, "{:.4g}"),
    "share_of_product": ("of the large product", 100, "{:.0f} %"),
    "share_of_networks": ("of the networks' own speed", 100, "{:.1f} %"),
    "cosine_esm2": ("1 - cosine, ESM-2", 1, "{}"),
    "cosine_dnabert_s": ("DNABERT-S", 1, "{}"),
    "peak_bytes": ("peak GB", 1e-9, "{:.1f}"),
    "seconds_to_open": ("s to open", 1, "{:.1f}"),
    "seconds": ("s", 1, "{:.1f}"),
}


class Skipped(Exception):
    """A step that is not for this device."""


class Run:
    """Runs steps, prints their numbers, and keeps them."""

    def __init__(self, device: torch.device, out: Path | None, minutes: float) -> None:
        self.device, self.out = device, out
        self.began, self.limit = time.monotonic(), 60 * minutes
        self.found: dict[str, Any] = {"steps": {}, "failed": {}, "left_out": {}}

    def step(self, name: str, work: Step) -> dict[str, Any] | None:
        """Return what a step measured, or None; it may fail in any way."""
        start = time.monotonic()
        try:
            if start - self.began > self.limit:
                raise TimeoutError("no time is left (--minutes)")
            numbers = work()
        except Skipped as reason:
            self.found["left_out"][name] = str(reason)
            print(f"{name:44} left out: {reason}", flush=True)
            numbers = None
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:400]}"
            self.found["failed"][name] = reason
            print(f"{name:44} FAILED: {reason}", flush=True)
            traceback.print_exc()
            numbers = None
        else:
            self.found["steps"][name] = numbers
            took = time.monotonic() - start
            print(f"{name:44} {told(numbers)}  [{took:.0f} s]", flush=True)
        clear_caches(self.device)
        self.save()
        return numbers

    def save(self) -> None:
        self.found["seconds"] = time.monotonic() - self.began
        if self.out:
            self.out.write_text(json.dumps(self.found, indent=1) + "\n")


def told(numbers: dict[str, Any]) -> str:
    """The numbers of a step in a line."""
    cells = []
    for key, (name, factor, form) in _UNITS.items():
        value = numbers.get(key)
        if value is not None and key.startswith("cosine"):
            cells.append(f"{name} {1 - value:.1e}")
        elif value is not None:
            cells.append(f"{name} {form.format(factor * value)}")
    if missing := numbers.get("without_a_graph"):
        cells.append(f"NOT COMPILED FOR {missing}")
    return ", ".join(cells) or json.dumps(numbers)


def of_size(run: Run, name: str, folder: Path, limits: dict[str, float]) -> None:
    """All rows of one size."""
    cuda = run.device.type == "cuda"
    number = _FRAMES.get(name) or _FRAMES["650M" if cuda else "tiny"]
    size = rows.Size(
        make_bundle(folder / name, name), run.device, frames(number["half"], seed=1),
        "fp16" if cuda else "fp32", limits,
    )  # fmt: skip
    cache = folder / f"{name}-cache"
    cold = run.step(f"{name}: start, cold", partial(gpu_worker.start, size, cache, [0, 1, 2]))
    warm = run.step(f"{name}: start, warm", partial(gpu_worker.start, size, cache, [2, 1, 0]))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    os.environ.pop("TRITON_CACHE_DIR", None)

    def way(precision: str, frames: int, compile_it: bool = False) -> Step:
        return partial(rows.row, size, precision, frames, compile_it, lambda _: None)

    def only(work: Step, needed: bool, reason: str = "it is for CUDA") -> Step:
        def left_out() -> dict[str, Any]:
            raise Skipped(reason)

        return work if needed else left_out

    half = size.half
    run.step(f"{name}: VirNuc, fp32", way("fp32", number["fp32"]))
    run.step(
        f"{name}: the original's way, fp32", partial(rows.the_original, size, number["original"])
    )
    run.step(f"{name}: VirNuc, tf32", only(way("tf32", number["tf32"]), cuda))
    run.step(f"{name}: half precision, not compiled", way(half, number["half"]))
    best = run.step(f"{name}: half precision, compiled", way(half, number["half"], True))
    run.step(
        f"{name}: the same, nothing pinned",
        only(partial(rows.not_pinned, size, number["half"]), cuda),
    )
    run.step(f"{name}: ESM-2 in fp8, compiled on CUDA", partial(rows.in_fp8, size, number["half"]))
    run.step(f"{name}: half precision, products alone", partial(rows.products_alone, size))

    def whole() -> dict[str, Any]:
        if best is None:
            raise RuntimeError("there is no speed of the networks to compare with")
        keys = ("esm2_frames_per_second", "dnabert_s_frames_per_second")
        return gpu_worker.worker(size, number["half"], 2, {key: best[key] for key in keys})

    run.step(f"{name}: whole worker", whole)
    processes = {"cold": cold, "warm": warm, "this": best}
    found = {key: numbers["sha256"] for key, numbers in processes.items() if numbers}
    run.step(f"{name}: equal bytes", partial(gpu_worker.same_bytes, found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", nargs="+", choices=ESM2, default=["3B", "650M"])
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: as torch chooses")
    parser.add_argument("--minutes", type=float, default=8, help="after which no step begins")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("virnuc_rules.models.compiled").setLevel(logging.INFO)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    cuda = device.type == "cuda"
    run = Run(device, options.out, options.minutes)
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"
    run.found |= {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    n, limits = (8192 if cuda else 256), dict[str, float]()
    for kind in ("fp16", "bf16", "fp32", "tf32", "fp8"):
        found = run.step(
            f"product of {n} x {n}, {kind}", partial(rows.large_products, device, n, [kind])
        )
        limits |= found or {}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            of_size(run, size, Path(folder), limits)
    if run.found["failed"]:
        print(f"failed: {', '.join(run.found['failed'])}")
    print(f"{time.monotonic() - run.began:.0f} s")
    return 1 if run.found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
