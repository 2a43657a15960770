"""What `models verify` found, kept in the bundle's folder: `verified.json`. Needs no torch."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from virnuc_rules.errors import ModelError
from virnuc_rules.files.atomic import replacing

FILE = "verified.json"  # in the folder of a bundle
EXACT = "fp32"  # what the other precisions are compared with


class _Run(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str  # of the embeddings: another bundle's verification is none
    device: str  # type: cpu, cuda
    device_name: str
    versions: dict[str, str]
    made: datetime
    data: str
    data_sha256: str
    open_frames: int

    def __str__(self) -> str:
        where = f"{self.device} ({self.device_name}), torch {self.versions['torch']}"
        return f"{self.open_frames} open frames of {self.data} on {where}:"


class Verification(_Run):
    """A precision compared with fp32 on one type of device, on a user's sequences."""

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
            f"{self.precision} against fp32, {super().__str__()}",
            f"  open frames with another label   {_count(self.label_flips, self.open_frames)}",
            f"  windows with another call        {_count(self.call_flips, self.windows)}",
        ]
        if self.score_max is not None and self.score_p999 is not None:
            lines.append(
                f"  difference of score_virus        {self.score_max:.2e} at most, "
                f"99.9th percentile {self.score_p999:.2e}"
            )
        least = ", ".join(f"{name} {value:.6f}" for name, value in self.cosine_min.items())
        lines += [
            f"  cosine of embeddings, least      {least}",
            f"  not finite, again in fp32        {self.recomputed_in_fp32}",
        ]
        return "\n".join(lines)


class Parity(_Run):
    """Our ESM-2 in fp32 compared with fair-esm's forward of the published checkpoint."""

    checkpoint: str
    checkpoint_sha256: str
    embedding_max: float  # largest difference of a number in an embedding
    embedding_scale: float  # largest number in one, to compare with
    cosine_min: float

    def __str__(self) -> str:
        return (
            f"ESM-2 in fp32 against fair-esm and {self.checkpoint}, {super().__str__()}\n"
            f"  difference in an embedding       {self.embedding_max:.2e} at most "
            f"(its numbers: up to {self.embedding_scale:.2e})\n"
            f"  cosine of embeddings, least      {self.cosine_min:.8f}"
        )


def _count(flips: int | None, of: int) -> str:
    return "unknown: no classifier" if flips is None else f"{flips} of {of}"


class Verified(BaseModel):
    """`verified.json`: the newest run of each kind."""

    precisions: list[Verification] = []
    parity: Parity | None = None

    def with_precision(self, run: Verification) -> "Verified":
        """Return this with a new run in place of one of the same precision and device type."""
        others = [
            r for r in self.precisions if (r.precision, r.device) != (run.precision, run.device)
        ]
        return self.model_copy(update={"precisions": [*others, run]})

    def covers(self, precision: str, device: str) -> bool:
        """Tell whether the precision has been compared with fp32 on this type of device."""
        runs = {(run.precision, run.device) for run in self.precisions}
        return precision == EXACT or (precision, device) in runs


def read_verified(bundle: Path, fingerprint: str) -> Verified:
    """Return what was found with these networks; nothing where the file is missing."""
    path = bundle / FILE
    try:
        found = Verified.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Verified()
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: cannot be read ({reason}); remove it") from None
    return Verified(
        precisions=[run for run in found.precisions if run.fingerprint == fingerprint],
        parity=found.parity if found.parity and found.parity.fingerprint == fingerprint else None,
    )


def write_verified(bundle: Path, verified: Verified) -> None:
    """Write `verified.json`. Raises ModelError where the bundle cannot be written to."""
    path = bundle / FILE
    try:
        with replacing(path) as handle:
            handle.write(verified.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror})") from None
