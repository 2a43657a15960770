"""The figures of pages, drawn once for page and file: the same bytes for the same numbers."""

import io
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from virnuc_rules.config.run_folder import FIGURES
from virnuc_rules.report.data import LENGTHS, SampleSummary
from virnuc_rules.vocabulary import Call

COLORS = {Call.VIRUS: "#c8553d", Call.NON_VIRAL: "#2d6a8e", Call.NO_CALL: "#a9afb8"}
_STYLE: Any = {
    "svg.hashsalt": "virnuc",  # constant ids in the file
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
_MAX_NAME = 24  # letters of a sample's name in a figure
_MAX_NAMED = 25  # samples in a figure; more are drawn without names


def drawn(
    name: str, draw: Callable[[Any], None], kinds: tuple[str, ...] = ("svg",), height: float = 3.6
) -> dict[str, bytes]:
    """Draw into axes; return the image of each kind, svg or png.

    Ids in the SVG begin with `name`: several can be in one page.
    """
    images = {}
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.8, height))
        draw(axes)
        for kind in kinds:
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            image = io.BytesIO()
            figure.savefig(image, format=kind, dpi=150, metadata=metadata)
            images[kind] = image.getvalue()
        plt.close(figure)
    if "svg" in images:
        images["svg"] = re.sub(
            rb'(<[^>]* id="|url\(#|href="#)', rb"\1%s-" % name.encode(), images["svg"]
        )
    return images


def element(svg: bytes) -> str:
    """Return an image as an element for a page."""
    text = svg.decode()
    return text[text.index("<svg") :]


def report_figures(
    samples: list[SampleSummary], shown: dict[str, str]
) -> dict[str, dict[str, bytes]]:
    """Draw FIGURES as SVG and PNG; `shown`: what windows and contigs have, by `page.Run.shown`."""
    tall = max(3.6, 1.2 + 0.25 * len(samples)) if len(samples) <= _MAX_NAMED else 3.6
    draws: tuple[tuple[Callable[[Any], None], float], ...] = (
        (lambda axes: _scores(axes, samples, shown["windows"]), 3.6),
        (lambda axes: _by_length(axes, samples), 3.6),
        (lambda axes: _calls(axes, samples), tall),
    )
    return {
        name: drawn(name, draw, ("svg", "png"), height)
        for name, (draw, height) in zip(FIGURES, draws, strict=True)
    }


def _scores(axes: Any, samples: list[SampleSummary], shown: str) -> None:
    bottom: Any = 0
    for call in (Call.NON_VIRAL, Call.VIRUS):
        count: Any = sum(sample.histogram[call] for sample in samples)
        edges, top = np.linspace(0, 1, len(count) + 1), bottom + count
        style = {"color": COLORS[call], "label": f"{_name(call)}: {count.sum():,}"}
        axes.stairs(top, edges, baseline=bottom, fill=True, **style)
        bottom = top
    axes.set(xlabel=f"{shown} of a window", ylabel="windows with a call", xlim=(0, 1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(axes)


def _by_length(axes: Any, samples: list[SampleSummary]) -> None:
    virus: Any = sum(sample.by_length[Call.VIRUS] for sample in samples)
    called = virus + sum(sample.by_length[Call.NON_VIRAL] for sample in samples)
    fraction = np.divide(virus, called, out=np.zeros(len(LENGTHS)), where=called > 0)
    bars = axes.bar(length_names(), 100 * fraction, color=COLORS[Call.VIRUS])
    axes.bar_label(
        bars, [f"{v:,}\nof {c:,}" if c else "" for v, c in zip(virus, called, strict=True)], size=7
    )
    axes.set(xlabel="length of the contig, kb", ylabel="viral, % of contigs with a call")
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 25))


def length_names() -> list[str]:
    """Return the names of the length classes, in kb."""
    names = [f"{low / 1000:g}–{high / 1000:g}" for low, high in pairwise(LENGTHS)]
    return [*names, f"≥{LENGTHS[-1] / 1000:g}"]


def _calls(axes: Any, samples: list[SampleSummary]) -> None:
    count = np.array([[sample.contig_calls[call] for call in COLORS] for sample in samples])
    percent = 100 * count / np.maximum(1, count.sum(1, keepdims=True))
    if few := len(samples) <= _MAX_NAMED:
        names = (s.name if len(s.name) <= _MAX_NAME else s.name[:_MAX_NAME] + "…" for s in samples)
        labels = [f"{name} ({n:,})" for name, n in zip(names, count.sum(1), strict=True)]
        axes.set_yticks(np.arange(len(samples)) + 0.5, labels)
        axes.set(xlabel="% of the contigs of a sample (their number)")
    else:
        percent = percent[np.lexsort((-percent[:, 2], -percent[:, 0]))]
        axes.set(xlabel="% of its contigs", ylabel=f"{len(samples):,} samples, most viral first")
    left, edges = np.zeros(len(samples)), np.arange(len(samples) + 1)
    for at, (call, color) in enumerate(COLORS.items()):
        style, right = {"color": color, "label": _name(call)}, left + percent[:, at]
        if few:
            axes.barh(edges[:-1] + 0.5, percent[:, at], left=left, **style)
        else:  # one path, not a bar for each
            axes.stairs(right, edges, baseline=left, orientation="horizontal", fill=True, **style)
        left = right
    axes.set(xlim=(0, 100), ylim=(len(samples), 0))
    _legend(axes)


def _legend(axes: Any) -> None:
    axes.figure.legend(frameon=False, ncols=3, loc="outside upper center")


def _name(call: Call) -> str:
    return call.replace("non_", "non-").replace("_", " ")
