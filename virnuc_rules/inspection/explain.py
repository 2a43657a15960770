"""Why a contig was called as it was: its windows, open frames and regions, and the rule."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import ResultError, VirnucError, one_line
from virnuc_rules.files.environment import environment_named, read_regular
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.models.prevalence import EVEN, at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_model import FEATURES, features
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.vocabulary import NO_REASON, Call, Reason

_CLOSE = 5  # ids in a message
_SAME = 1e-3  # of two probabilities
_TABLES: dict[str, tuple[str, ...]] = {
    "regions": ("start", "end", "windows", "evidence", "posterior"),
    "windows": (
        "window", "start", "end", "open_frames", "best_frame", "score_virus", "score_non_viral",
        "probability", "margin", "call", "reason",
    ),
    "orfs": ("window", "frame", "start", "end", "score_virus", "score_non_viral", "label"),
}  # fmt: skip

Row = dict[str, Any]


class Explanation(BaseModel):
    """A contig, and what its call follows from; rows are those of the tables of its sample."""

    sample: str
    contig: Row
    rule: str
    prevalence: float | None  # viral fraction of the contigs of the sample; None: no model
    added: dict[str, tuple[float, float]]  # feature: value, and what it adds to the log odds
    changed: bool  # the bundle's model gives another probability than the table has
    regions: list[Row]
    windows: list[Row]
    frames: list[Row]


def explain(config: Config, contig: str, sample: str) -> Explanation:
    """Collect what is known of a contig; sample: empty for the only one that has it.

    Raises VirnucError where no sample has it, or several, ResultError for damaged tables.
    """
    run = RunFolder(config.run.results)
    samples = [sample] if sample else list(read_samples(config.inputs.samples))
    found = {name: row for name in samples if (row := _find(run, name, contig))}
    if not found:
        raise VirnucError(_not_found(run, samples, contig))
    if len(found) > 1:
        raise VirnucError(f"{contig}: samples {', '.join(found)} have it; give --sample")
    ((name, row),) = found.items()
    folder = run.sample(name)
    only = pc.field("contig_index") == row["contig_index"]
    regions, windows, frames = (
        _rows(folder.parquet(table), columns, only) for table, columns in _TABLES.items()
    )
    with environment_named(folder.calls):
        calls = SampleCalls.model_validate_json(read_regular(folder.calls))
    card, prevalence = read_card(config.run.bundle), calls.contigs and calls.contigs.prevalence
    added = _added(windows, card) if row["called_windows"] else {}
    changed = False
    if added and row["probability"] is not None:
        odds = np.array([sum(more for _, more in added.values())])
        expected = at_prevalence(odds, prevalence or EVEN)[0]
        changed = bool(abs(expected - row["probability"]) > _SAME)
    return Explanation(
        sample=name, contig=row, rule=calls.rule(config.calling, config.probability),
        prevalence=prevalence, added=added, changed=changed, regions=regions, windows=windows,
        frames=frames,
    )  # fmt: skip


def _find(run: RunFolder, sample: str, contig: str) -> Row | None:
    """Return the row of a contig in a sample, the first of several with the id."""
    path = run.sample(sample).parquet("contigs")
    rows = _rows(path, None, pc.field("contig") == contig) if path.exists() else []
    return rows[0] if rows else None


def _rows(path: Path, columns: tuple[str, ...] | None, only: pc.Expression) -> list[Row]:
    """Read some rows of a table; only row groups that may have them are read."""
    try:
        with environment_named(path):
            table = ds.dataset(path, format="parquet")
            rows: list[Row] = table.to_table(columns and list(columns), filter=only).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = one_line(error)
        raise ResultError(f"{path}: cannot be read ({reason}); run `predict` again") from None
    return rows


def _not_found(run: RunFolder, samples: list[str], contig: str) -> str:
    tables = [path for s in samples if (path := run.sample(s).parquet("contigs")).exists()]
    if not tables:
        return f"{run.results}: no tables of {', '.join(samples)}; run the workflow first"
    alike = pc.match_substring(pc.field("contig"), contig)
    close = [row["contig"] for path in tables for row in _rows(path, ("contig",), alike)[:_CLOSE]]
    hint = f"; there are {', '.join(close[:_CLOSE])}" if close else ""
    return f"{contig}: no contig of {', '.join(samples)} has this id{hint}"


def _added(windows: list[Row], card: BundleCard) -> dict[str, tuple[float, float]]:
    """Return the features of a contig, and what each adds to its log odds; empty: no model."""
    model = card.contig_model
    if model is None or set(model.coefficients) != set(FEATURES):
        return {}
    codes = {reason.value: reason.code for reason in Reason} | {None: NO_REASON}
    reason = np.array([codes[row["reason"]] for row in windows], np.int8)
    margin = np.array([row["margin"] for row in windows], np.float32)  # None: NaN
    calls = WindowCalls(
        contigs=1,
        index=np.zeros(len(windows), np.int64),
        start=np.array([row["start"] for row in windows]),
        end=np.array([row["end"] for row in windows]),
        score=np.array([row["score_virus"] for row in windows], np.float32),
        reason=reason,
        virus=np.array([row["call"] == Call.VIRUS for row in windows]),
        margin=margin,
        log_odds=Odds.of(card.calibration).evidence(margin, reason == Reason.NO_OPEN_FRAME.code),
    )
    (values,) = features(calls, model.longest).tolist()
    pairs = zip(FEATURES, values, strict=True)
    added = {name: (value, value * model.coefficients[name]) for name, value in pairs}
    return {"intercept": (1.0, model.intercept), **added}


def rendered(it: Explanation, windows: int, frames: bool) -> RenderableType:
    """Return what a user reads; windows: how many are shown, 0: all."""
    return Group(*_parts(it, windows, frames))


def _parts(it: Explanation, windows: int, frames: bool) -> Iterator[RenderableType]:
    yield from map(Text, _lines(it))
    if it.added:
        rows: list[Row] = [
            {"feature": name, "value": value, "adds": more}
            for name, (value, more) in it.added.items()
        ]
        total = sum(more for _, more in it.added.values())
        rows.append({"feature": "sum, where half of the contigs are viral", "adds": total})
        yield _table("log odds, by the model of contigs", "feature value adds", rows)
        if it.prevalence:
            yield Text(f"The viral fraction of the contigs of the sample is {it.prevalence:.3f}.")
    if it.changed:
        yield Text("The bundle has changed since: its model gives another probability.")
    if it.regions:
        yield _table("regions", "bases windows evidence posterior", it.regions)
    shown = it.windows[: windows or None]
    known = any(window["probability"] is not None for window in it.windows)
    measure = "probability" if known else "margin"
    columns = f"window bases frames best virus non_viral {measure} call"
    yield _table("windows, by their best scores", columns, shown)
    if len(shown) < len(it.windows):
        yield Text(f"{len(it.windows) - len(shown):,} more windows: --windows 0 shows all")
    if frames:
        numbers = {window["window"] for window in shown}
        some = [frame for frame in it.frames if frame["window"] in numbers]
        yield _table("open frames", "window frame bases virus non_viral label", some)


def _lines(it: Explanation) -> Iterator[str]:
    row, probability = it.contig, it.contig["probability"]
    reason = f" ({row['reason']})" if row["reason"] else ""
    yield f"{it.sample}: {row['contig']}: {row['call']}{reason}"
    yield (
        f"{row['length']:,} bases, {row['windows']:,} windows, {row['called_windows']:,} with a "
        f"call, {row['viral_windows']:,} of them viral; terminal repeat: "
        f"{row['terminal_repeat'] or 'none'}"
    )
    yield it.rule
    if probability is not None:
        yield f"Its probability is {probability:.3f}."
    elif row["called_windows"]:
        yield (
            f"Viral fraction of its called windows: {row['viral_fraction']:.3f}; mean score of the "
            f"viral ones: {_text(row['score_viral'])}."
        )


def _table(title: str, columns: str, rows: list[Row]) -> Table:
    """Draw columns of rows; `bases` are start and end, `call` is the reason where there is none."""
    table = Table(title=f"\n{title}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in columns.split():
        table.add_column(name)
    for row in rows:
        cells = {name.removeprefix("score_"): _text(value) for name, value in row.items()}
        cells["bases"] = f"{row.get('start')}-{row.get('end')}"
        cells["frames"], cells["best"] = (cells.get(f, "") for f in ("open_frames", "best_frame"))
        cells["call"] = row.get("reason") or row.get("call") or ""
        table.add_row(*(Text(cells.get(name, "")) for name in columns.split()))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
