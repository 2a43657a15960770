"""A table with a row for each sample, `summary.tsv`.

Every column is described in docs/outputs.md.
"""

from collections.abc import Iterable
from typing import Any

from virnuc_rules.errors import one_line
from virnuc_rules.files.tsv import escape
from virnuc_rules.report.data import SampleSummary
from virnuc_rules.vocabulary import Call, Label

COLUMNS = (
    "sample", "problem", "bases", "contigs", *(f"contigs_{call}" for call in Call),
    "viral_fraction", "regions", "windows", *(f"windows_{call}" for call in Call), "open_frames",
    "calls", "cutoff", "viral_windows_estimated", "viral_contigs_estimated",
    "false_windows_expected", "false_contigs_expected",
)  # fmt: skip


def summary_text(
    order: Iterable[str], samples: list[SampleSummary], missing: dict[str, str]
) -> str:
    """Return the text of the table.

    order: names of all samples; missing: why those that are not in `samples` have no tables.
    """
    rows: dict[str, dict[str, Any]] = {sample.name: _row(sample) for sample in samples}
    for name, reason in missing.items():
        rows[name] = {"sample": name, "problem": one_line(reason)}
    lines = [COLUMNS, *([_text(rows[row].get(name)) for name in COLUMNS] for row in order)]
    return "".join("\t".join(line) + "\n" for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def _row(sample: SampleSummary) -> dict[str, Any]:
    calls, manifest = sample.calls, sample.manifest
    windows, contigs = calls.windows, calls.contigs
    called = sum(sample.contig_calls[call] for call in Label)
    return {
        "sample": sample.name,
        "bases": manifest.bases,
        "contigs": manifest.contigs,
        **{f"contigs_{call}": sample.contig_calls[call] for call in Call},
        "viral_fraction": sample.contig_calls[Call.VIRUS] / called if called else None,
        "regions": sample.regions,
        "windows": manifest.windows,
        **{f"windows_{call}": sample.window_calls[call] for call in Call},
        "open_frames": manifest.open_frames,
        "calls": calls.calls,
        "cutoff": calls.cutoff,
        "viral_windows_estimated": windows and windows.prevalence,
        "viral_contigs_estimated": contigs and contigs.prevalence,
        "false_windows_expected": windows and windows.expected_fdr,
        "false_contigs_expected": contigs and contigs.expected_fdr,
    }
