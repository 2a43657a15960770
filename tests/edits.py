"""Single edits of a finished run: of settings, sheet, inputs, bundle, and of the results."""

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convergence import NETWORKS, change_bundle, halve, write_sample
from harness import Project

HOUR = 3600


@dataclass(frozen=True)
class Edit:
    """An edit. `embeds`: the samples whose chunks one run embeds after it; None: not looked at."""

    name: str
    apply: Callable[[Project], object]
    embeds: str | None = None
    chunks: bool = False  # the files of a are read again


def setting(key: str, value: Any, embeds: str | None = "", chunks: bool = False) -> Edit:
    def apply(project: Project) -> None:
        project.settings[key] = value

    return Edit(f"{key}={value}", apply, embeds, chunks)


def deleted(name: str, chunks: bool = False, embeds: str | None = "") -> Edit:
    """Delete files or folders below the results, given by a pattern."""

    def apply(project: Project) -> None:
        for path in list(project.results.glob(name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return Edit(f"delete {name}", apply, embeds, chunks)


def halved(name: str, chunks: bool = False, embeds: str | None = "") -> Edit:
    """Halve the first of the files below the results that a pattern matches."""

    def apply(project: Project) -> None:
        for path in sorted(project.results.glob(name))[:1]:
            halve(path)

    return Edit(f"halve {name}", apply, embeds, chunks)


def samples(name: str, change: Callable[[dict[str, Path]], dict[str, Path]], embeds: str) -> Edit:
    def apply(project: Project) -> None:
        if not (project.folder / "c.fa").exists():
            write_sample(project.folder / "c.fa", "c")
        project.set_samples(change(project.samples))

    return Edit(f"sample {name}", apply, embeds)


def replaced(when: str, seconds: int) -> Edit:
    """Other content of a.fa with a time that is so much later than now."""

    def apply(project: Project) -> None:
        path = project.folder / "a.fa"
        write_sample(path, "a", salt="other")
        if seconds:
            at = path.stat().st_mtime + seconds
            os.utime(path, (at, at))

    return Edit(f"a.fa replaced by {when} content", apply, "a", chunks=True)


def touched(project: Project) -> None:
    path = project.folder / "a.fa"
    if path.exists():
        os.utime(path, (1e9, 1e9))


def broken(project: Project) -> None:
    """A gzip file that ends early."""
    write_sample(project.folder / "a.fa", "a")
    data = gzip.compress((project.folder / "a.fa").read_bytes(), mtime=0)
    (project.folder / "a.fa").write_bytes(data[: len(data) // 2])


def archived(project: Project) -> None:
    (project.folder / "a.fa").unlink(missing_ok=True)


def labelled(*rows: str) -> Callable[[Project], None]:
    """Give the sheet a column of labels, with a table of sample a."""

    def apply(project: Project) -> None:
        table = "id\tlabel\n" + "".join(f"{row}\n" for row in rows)
        (project.folder / "labels.tsv").write_text(table)
        sheet = [f"{n}\t{p}\t{'labels.tsv' * (n == 'a')}\n" for n, p in project.samples.items()]
        text = "sample\tpath\tlabels\n" + "".join(sheet)
        (project.folder / "samples.tsv").write_text(text)

    return apply


def annotated(text: str) -> Callable[[Project], None]:
    """Give the sheet a column of annotations, with a table of sample a."""

    def apply(project: Project) -> None:
        (project.folder / "known.tsv").write_text(text)
        sheet = [f"{n}\t{p}\t{'known.tsv' * (n == 'a')}\n" for n, p in project.samples.items()]
        text_of_sheet = "sample\tpath\tannotations_taxa\n" + "".join(sheet)
        (project.folder / "samples.tsv").write_text(text_of_sheet)

    return apply


def exchanged(name: str, embeds: str) -> Edit:
    def apply(project: Project) -> None:
        change_bundle(project.folder / "bundle", NETWORKS[name])

    return Edit(f"other {name} in the bundle", apply, embeds)


def without_embeddings(key: str, value: Any, embeds: str) -> Edit:
    """Delete all embeddings and change a setting."""

    def apply(project: Project) -> None:
        shutil.rmtree(project.paths.embeddings, ignore_errors=True)
        project.settings[key] = value

    return Edit(f"delete embeddings, {key}={value}", apply, embeds)


SETTINGS = (
    setting("chunk_size", 7, "ab", chunks=True),
    setting("genetic_code", 4, None, chunks=True),
    setting("duplicate_ids", "keep", chunks=True),
    setting("window", 300),  # not the bundle's: refused
    setting("on_failed_chunks", "report"),
    setting("keep_embeddings", False),
    setting("threads", 2),
    setting("device", "cpu"),
    setting("precision", "fp32", "ab"),
    setting("batch_tokens", 4096, "ab"),
    setting("lease_seconds", 30),
    setting("workers", 2),
    setting("persistent_models", False),
    setting("min_score", 0.99),
    setting("min_viral_fraction", 1.0),
    setting("min_called_windows", 3),
    setting("calls", "virnucpro"),
    setting("prevalence", 0.01),
    setting("max_fdr", 0.1),  # the bundle has no model of contigs: refused
    setting("seed", 5),
)
INPUTS = (
    samples("c added", lambda s: {**s, "c": Path("c.fa")}, "c"),
    samples("b removed", lambda s: {n: p for n, p in s.items() if n != "b"}, ""),
    samples("b renamed", lambda s: {n if n != "b" else "d": p for n, p in s.items()}, ""),
    samples("order reversed", lambda s: dict(reversed(s.items())), ""),
    replaced("newer", 0),
    replaced("older", -HOUR),
    replaced("future", HOUR),
    Edit("a.fa with another time", touched, ""),
    Edit("a.fa archived", archived, ""),
    Edit("a.fa broken", broken, "", chunks=True),
    Edit("labels", labelled("a0\tvirus", "a1\tnon_viral", "unknown\tvirus"), ""),
    Edit("labels edited", labelled("a0\tnon_viral"), ""),
    Edit("annotations", annotated("id\ttaxon\na0\tA\na1\tB\nother\tC\n"), ""),
    Edit("annotations edited", annotated("id\ttaxon\na0\tD\n"), ""),
    exchanged("classifier", ""),
    exchanged("networks", "ab"),
)
RESULTS = (
    deleted("chunks/a/chunk_*", chunks=True),
    halved("chunks/a/chunk_*", chunks=True),
    deleted("chunks/a/manifest.json", chunks=True),
    halved("chunks/b/manifest.json"),
    halved("chunks/a/bases.parquet", chunks=True),
    deleted("chunks/a/made.json", chunks=True),
    deleted("chunks", chunks=True),
    deleted("*/done"),
    deleted("*/made.json"),
    halved("a/made.json"),
    deleted("a/windows.tsv"),
    halved("a/contigs.parquet"),
    halved("b/viral.fa.gz"),
    deleted("a/tracks/*.bed"),
    deleted("a"),
    halved("embeddings/*/*"),
    deleted("embeddings"),
    without_embeddings("min_score", 0.99, "ab"),
    deleted("queue"),
    deleted("queue/stamps"),
    deleted("viruses.*"),
    halved("viruses.fa.gz"),
    deleted("annotations.tsv"),
    halved("summary.tsv"),
    deleted("report.html"),
    halved("report.html"),
    halved("provenance.json"),
    deleted("report/*.svg"),
    deleted("report"),
    halved("multiqc/*"),
    deleted("multiqc"),
    deleted("config.yaml"),
    deleted("logs"),
    deleted("../results", chunks=True, embeds="ab"),
)
EDITS = {edit.name: edit for edit in (*SETTINGS, *INPUTS, *RESULTS)}
