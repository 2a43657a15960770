"""Which commands a run came from: the one at work, and the Snakemake that a person typed."""

from dataclasses import dataclass

import psutil
import pytest

from virnuc_rules.report import provenance


@dataclass
class Process:
    """A parent of this process, with its command; None: it may not be read."""

    words: list[str] | None

    def cmdline(self) -> list[str]:
        if self.words is None:
            raise psutil.AccessDenied
        return self.words


INNER = [
    "/env/bin/python3.12",
    "/env/bin/snakemake",
    "--snakefile",
    "Snakefile",
    "--mode",
    "remote",
]
OUTER = ["python", "/env/bin/snakemake", "--profile", "slurm", "--config", "samples=my sheet.tsv"]


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ([["bash", "-c", "..."], INNER, None, ["slurmstepd"], OUTER, ["-bash"]], [OUTER]),
        ([["bash"], INNER], [INNER]),
        ([["bash", "-c", "ls", "x/snakemake"], ["sshd"]], []),  # no command but an argument of one
        ([None], []),
    ],
)
def test_the_outermost_snakemake_is_named(
    monkeypatch: pytest.MonkeyPatch, parents: list[list[str] | None], expected: list[list[str]]
) -> None:
    chain = [Process(words) for words in parents]  # the nearest first, as psutil has them
    monkeypatch.setattr(psutil.Process, "parents", lambda _: chain)
    found = provenance._snakemake()
    assert found == ["python /env/bin/snakemake --profile slurm --config 'samples=my sheet.tsv'"
                     if words is OUTER else " ".join(words) for words in expected]  # fmt: skip
