"""The tables that MultiQC reads: https://docs.seqera.io/multiqc/custom_content."""

from typing import Any

from virnuc_rules.report.data import SampleSummary
from virnuc_rules.vocabulary import Call

_COLUMNS = {  # of the table of samples: title, description
    "contigs": ("Contigs", "contigs of the sample"),
    "bases": ("Bases", "bases of its contigs"),
    "windows": ("Windows", "windows of its contigs"),
    "windows_called": ("Called", "windows with a call"),
    "contigs_virus": ("Virus", "contigs called virus"),
}


def multiqc_content(
    samples: list[SampleSummary], bundle: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of the bar chart of calls, and of the table of samples."""
    common = {
        "parent_id": "virnuc",
        "parent_name": "VirNuc",
        "parent_description": "viral sequences in metagenomes",
    }
    described = f"by the models of bundle {bundle}"
    headers = {
        key: {"title": title, "description": description, "format": "{:,.0f}"}
        for key, (title, description) in _COLUMNS.items()
    }
    headers["expected_false"] = {
        "title": "False windows, expected",
        "description": "% of the windows called virus, by the calibration of the bundle",
        "format": "{:,.1f}",
    }
    calls = {
        **common,
        "id": "virnuc_calls",
        "section_name": "Calls of contigs",
        "description": described,
        "plot_type": "bargraph",
        "pconfig": {
            "id": "virnuc_calls_plot",
            "title": "VirNuc: calls of contigs",
            "ylab": "contigs",
        },
        "data": {s.name: {call: s.contig_calls[call] for call in Call} for s in samples},
    }
    summary = {
        **common,
        "id": "virnuc_summary",
        "section_name": "Samples",
        "description": described,
        "plot_type": "table",
        "pconfig": {"id": "virnuc_summary_table", "title": "VirNuc: samples"},
        "headers": headers,
        "data": {s.name: _row(s) for s in samples},
    }
    return calls, summary


def _row(sample: SampleSummary) -> dict[str, float]:
    """Return the row of a sample; `expected_false` only with a calibration."""
    row: dict[str, float] = {
        **sample.manifest.model_dump(include={"contigs", "bases", "windows"}),
        "windows_called": sample.window_calls[Call.VIRUS] + sample.window_calls[Call.NON_VIRAL],
        "contigs_virus": sample.contig_calls[Call.VIRUS],
    }
    if (windows := sample.calls.windows) and windows.expected_fdr is not None:
        row["expected_false"] = 100 * windows.expected_fdr
    return row
