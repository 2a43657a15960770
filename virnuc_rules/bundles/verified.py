"""The results of `models verify`: `verified.json` in the bundle's folder. Needs no torch."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from virnuc_rules.errors import ModelError, one_line
from virnuc_rules.files.atomic import write_json
from virnuc_rules.files.environment import (
    environment_named,
    environment_problem,
    patient,
    read_regular,
)

FILE = "verified.json"  # in the folder of a bundle
EXACT = "fp32"  # the reference of all other precisions


class Verification(BaseModel):
    """A precision compared with fp32 on one type of device, on a user's sequences."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str  # of the bundle's embeddings
    device: str  # type: cpu, cuda
    device_name: str
    versions: dict[str, str]
    made: datetime
    data: str
    data_sha256: str
    open_frames: int
    precision: str
    windows: int
    recomputed_in_fp32: int  # embeddings that were not finite in this precision
    cosine_min: dict[str, float]  # of each network's embeddings
    label_flips: int | None  # open frames; None where the bundle has no classifier
    call_flips: int | None  # windows
    score_max: float | None  # largest difference of score2
    score_p999: float | None  # its 99.9th percentile

    def __str__(self) -> str:
        lines = [
            f"{self.precision} against fp32, {self.open_frames} open frames of {self.data} on "
            f"{self.device} ({self.device_name}), torch {self.versions['torch']}:",
            f"  open frames with another label   {_count(self.label_flips, self.open_frames)}",
            f"  windows with another call        {_count(self.call_flips, self.windows)}",
        ]
        if self.score_max is not None and self.score_p999 is not None:
            lines.append(
                f"  difference of score_virus        {self.score_max:.2e} at most, "
                f"99.9th percentile {self.score_p999:.2e}"
            )
        cosines = ", ".join(f"{name} {value:.6f}" for name, value in self.cosine_min.items())
        lines += [
            f"  cosine of embeddings, minimum    {cosines}",
            f"  not finite, again in fp32        {self.recomputed_in_fp32}",
        ]
        return "\n".join(lines)


def _count(flips: int | None, of: int) -> str:
    return "unknown: no classifier" if flips is None else f"{flips} of {of}"


class Verified(BaseModel):
    """`verified.json`: the newest run of each kind."""

    precisions: list[Verification] = []

    def with_precision(self, run: Verification) -> "Verified":
        """Return a copy with a new run, which replaces one of the same precision and device."""
        kind = (run.precision, run.device)
        kept = [old for old in self.precisions if (old.precision, old.device) != kind]
        return self.model_copy(update={"precisions": [*kept, run]})

    def covers(self, precision: str, device: str) -> bool:
        """Tell whether the precision has been compared with fp32 on this type of device."""
        runs = {(run.precision, run.device) for run in self.precisions}
        return precision == EXACT or (precision, device) in runs


@patient
def read_verified(bundle: Path, fingerprint: str) -> Verified:
    """Return the results for these networks; empty if the file is missing.

    Raises ModelError if it is damaged, EnvironmentProblem if it cannot be read.
    """
    path = bundle / FILE
    try:
        with environment_named(path):
            verified = Verified.model_validate_json(read_regular(path))
    except FileNotFoundError:
        return Verified()
    except (OSError, ValidationError) as error:
        reason = one_line(error)[:200]
        raise ModelError(f"{path}: cannot be read ({reason}); remove it") from None
    runs = [run for run in verified.precisions if run.fingerprint == fingerprint]
    return Verified(precisions=runs)


def write_verified(bundle: Path, verified: Verified) -> None:
    """Write `verified.json`. Raises ModelError if the bundle cannot be written to."""
    path = bundle / FILE
    try:
        write_json(path, verified)
    except OSError as error:
        problem = f"{path}: cannot be written ({error.strerror})"
        raise environment_problem(error, path) or ModelError(problem) from None
