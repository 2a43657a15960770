"""What a worker writes about itself: `queue/workers/<worker>.json`."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from virnuc_rules.files.environment import read_regular

_SERIES = 1000  # longest memory series in a report; every second point is dropped beyond it


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Memory(_Record):
    """Memory after a number of chunks, in MB (1e6 bytes); device: what torch holds on a GPU."""

    chunks: int
    resident: float
    device: float | None


class WorkerReport(_Record):
    """`queue/workers/<worker>.json`: what a worker did; rewritten after every chunk."""

    worker: str
    owner: str  # how its claims begin
    pid: int
    host: str
    device: str = ""
    precision: str  # of matrix products; as asked for until the models are loaded
    verified: bool = True  # what that precision does was measured on this type of device
    versions: dict[str, str]
    started: datetime
    updated: datetime
    load_count: dict[str, int] = {}
    load_seconds: dict[str, float] = {}
    chunks: int = 0
    failed_chunks: int = 0
    open_frames: int = 0
    tokens: int = 0  # of both models, without padding
    padding: int = 0  # tokens that only filled micro-batches up
    seconds_computing: float = 0
    seconds_first_chunk: float = 0  # of these; it warms caches and memory up
    seconds_waiting: float = 0
    cache_clears: int = 0
    memory: list[Memory] = []
    exit_reason: str | None = None  # None: running, or killed

    @property
    def tried(self) -> int:
        """Chunks that this worker finished, well or not."""
        return self.chunks + self.failed_chunks

    def add_memory(self, point: Memory) -> None:
        """Add a point to the series, thinning it where it has become long."""
        self.memory.append(point)
        if len(self.memory) > _SERIES:
            self.memory = self.memory[::2]


def read_reports(folder: Path) -> list[WorkerReport]:
    """Read the reports of all workers; other files, and those of another version, are left out."""
    reports = []
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValidationError):
            reports.append(WorkerReport.model_validate_json(read_regular(path)))
    return reports
