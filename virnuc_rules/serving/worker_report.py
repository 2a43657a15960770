"""What a worker writes about itself: `queue/workers/<worker>.json`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeFloat, ValidationError

from virnuc_rules.files.environment import SMALL, read_regular

Count = Annotated[int, Field(ge=0, lt=2**63)]

_SERIES = 1000  # longest memory series in a report; every second point is dropped beyond it


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Memory(_Record):
    """Memory after a number of chunks, in MB (1e6 bytes); device: what torch holds on a GPU."""

    chunks: int
    resident: NonNegativeFloat
    device: NonNegativeFloat | None


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
    started: AwareDatetime
    updated: AwareDatetime
    load_count: dict[str, Count] = {}
    load_seconds: dict[str, NonNegativeFloat] = {}
    chunks: Count = 0
    failed_chunks: Count = 0
    retried_chunks: Count = 0  # that it began after they had failed, or cost a worker, in this run
    lost_workers: Count = 0  # claims that it took over
    open_frames: Count = 0
    tokens: Count = 0  # of both models, without padding
    padding: Count = 0  # tokens that only filled micro-batches up
    seconds_computing: NonNegativeFloat = 0
    seconds_first_chunk: NonNegativeFloat = 0  # of these; it warms caches and memory up
    seconds_waiting: NonNegativeFloat = 0
    seconds_publishing: NonNegativeFloat = 0  # beside computing
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
            if path.stat().st_size > SMALL:
                continue
            reports.append(WorkerReport.model_validate_json(read_regular(path)))
    return reports
