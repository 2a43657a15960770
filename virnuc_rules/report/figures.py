"""The main figures of the report as files: the same bytes for the same numbers."""

from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from virnuc_rules.config.run_folder import FIGURES, ReportFolder
from virnuc_rules.files.atomic import replacing_path
from virnuc_rules.report.data import LENGTHS, SampleSummary
from virnuc_rules.vocabulary import Call

COLORS = {Call.VIRUS: "#c8553d", Call.NON_VIRAL: "#2d6a8e", Call.NO_CALL: "#a9afb8"}
STYLE: Any = {
    "svg.hashsalt": "virnuc",  # constant ids in the file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def write_figures(samples: list[SampleSummary], folder: ReportFolder) -> None:
    """Write each figure as PNG and SVG."""
    with mpl.rc_context(STYLE):
        for name, draw in zip(FIGURES, (_scores, _by_length, _calls), strict=True):
            figure, axes = plt.subplots(figsize=(6.4, 3.6))
            draw(axes, samples)
            for kind in ("png", "svg"):
                metadata = {"Date": None} if kind == "svg" else {"Software": None}
                with replacing_path(folder.figure(name, kind)) as path:
                    figure.savefig(path, format=kind, dpi=150, metadata=metadata)
            plt.close(figure)


def _scores(axes: Any, samples: list[SampleSummary]) -> None:
    bottom: Any = 0
    for call in (Call.NON_VIRAL, Call.VIRUS):
        count: Any = sum(sample.histogram[call] for sample in samples)
        edges, color = np.linspace(0, 1, len(count) + 1), COLORS[call]
        axes.bar(edges[:-1], count, np.diff(edges), bottom, align="edge", color=color, label=call)
        bottom = bottom + count
    axes.set(xlabel="probability (or relative score) of a window", ylabel="windows", xlim=(0, 1))
    axes.legend(frameon=False)


def _by_length(axes: Any, samples: list[SampleSummary]) -> None:
    names = [f"{low / 1000:g} to {high / 1000:g}" for low, high in pairwise(LENGTHS)]
    names.append(f"from {LENGTHS[-1] / 1000:g}")
    virus: Any = sum(sample.by_length[Call.VIRUS] for sample in samples)
    called = virus + sum(sample.by_length[Call.NON_VIRAL] for sample in samples)
    fraction = np.divide(virus, called, out=np.zeros(len(names)), where=called > 0)
    bars = axes.bar(names, fraction, color=COLORS[Call.VIRUS])
    axes.bar_label(bars, [f"{v:,} of {c:,}" for v, c in zip(virus, called, strict=True)], size=7)
    axes.set(xlabel="length of contigs, kb", ylabel="viral fraction of called", ylim=(0, 1.1))


def _calls(axes: Any, samples: list[SampleSummary]) -> None:
    names = [sample.name for sample in samples]
    left = np.zeros(len(samples))
    for call, color in COLORS.items():
        count = np.array([sample.contig_calls[call] for sample in samples])
        fraction = count / np.maximum(1, [sum(s.contig_calls.values()) for s in samples])
        axes.barh(names, fraction, left=left, color=color, label=call)
        left += fraction
    axes.invert_yaxis()
    axes.set(xlabel="fraction of contigs", xlim=(0, 1))
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
