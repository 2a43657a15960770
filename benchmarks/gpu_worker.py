"""What `gpu.py` measures with whole processes: a worker, start times, the bytes of chunks."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu_rows import Size, peak
from random_networks import SAMPLE, RandomBundle, chunk_it

from virnuc_rules.config.model import Config, WorkerSettings
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.models import compiled
from virnuc_rules.models.device import clear_caches
from virnuc_rules.serving.loading import Loaded
from virnuc_rules.serving.worker import Exit, Worker

_HERE = Path(__file__).parent


class TimedWorker(Worker):
    """A worker that notes when its networks are loaded."""

    loaded_at = 0.0

    def _load_within_deadline(self) -> Loaded:
        loaded = super()._load_within_deadline()
        self.loaded_at = time.perf_counter()
        return loaded


def worker(size: Size, rows: int, chunks: int, networks_alone: dict[str, float]) -> dict[str, Any]:
    """Chunk files in, results out: from the loaded networks to the last result on the disk.

    networks_alone: frames a second of each network, as its row has them.
    """
    clear_caches(size.device)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        chunk_it(results, rows, chunks)
        config = Config.of(
            results=results,
            bundle=size.bundle.folder,
            device=str(size.device),
            threads=torch.get_num_threads(),
            precision=size.half,
        )
        tasks = Tasks.of(config.run, config.embedding).of_samples([SAMPLE])
        settings = config.part(WorkerSettings)
        with (
            patch("virnuc_rules.models.bundle.Bundle", RandomBundle),
            patch.dict(os.environ, {compiled.VARIABLE: "1"}),
        ):
            if size.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(size.device)
            process = TimedWorker(settings, "0", 0, tasks)
            code = process.run()
        seconds = time.perf_counter() - process.loaded_at
        if code != Exit.DRAINED:
            raise RuntimeError(f"the worker ended with {code!r}")
        store, report = process.queue.store, process.report
        found = report.open_frames / seconds
        own = 1 / sum(1 / speed for speed in networks_alone.values())
        return {
            "chunks": report.chunks,
            "frames": report.open_frames,
            "seconds": seconds,
            "frames_per_second": found,
            "share_of_networks": found / own,
            "tokens_per_second": found * (len(size.chunk.protein[0]) + 2),
            "bytes_per_frame": sum(store.result(key).stat().st_size for key in tasks)
            / report.open_frames,
            "peak_bytes": peak(size.device),
        }


def start(size: Size, cache: Path, order: list[int]) -> dict[str, Any]:
    """Start a process as a worker is one, with a folder for compiled layers."""
    command = [
        sys.executable, str(_HERE / "gpu_start.py"), "--size", size.bundle.card.name,
        "--device", str(size.device), "--precision", size.half,
        "--threads", str(torch.get_num_threads()), "--order", *map(str, order),
    ]  # fmt: skip
    environment = {
        **{key: value for key, value in os.environ.items() if key != "TRITON_CACHE_DIR"},
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        compiled.VARIABLE: "1",
    }
    command += ["--began", str(time.time())]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not found["compiled"]:
        raise RuntimeError("its layers were not compiled; the log says why")
    return found


def same_bytes(found: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Compare the hashes of chunks from several processes; raises where they differ."""
    if len(found) < 2:
        raise RuntimeError("fewer than two processes gave bytes")
    chunks = {number for hashes in found.values() for number in hashes}
    differ = [n for n in sorted(chunks) if len({hashes.get(n) for hashes in found.values()}) > 1]
    if differ:
        raise RuntimeError(f"chunks {differ} have other bytes in another process: {found}")
    return {"processes": sorted(found), "chunks": len(chunks), "equal": True}
