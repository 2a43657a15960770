"""Why a contig was called as it was: its windows, open frames and regions, and the rule."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.models.prevalence import EVEN, at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_model import FEATURES, features
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.report.data import read_calls
from virnuc_rules.report.parquet import damage_named
from virnuc_rules.vocabulary import NO_REASON, Call, Reason

_CLOSE = 5  # names in a message
_SAME = 1e-3  # of two probabilities
_COMPARED = 50_000  # ids of a sample that are compared with one that is not found
_ALIKE = 0.75  # 1 is equal
_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_COLUMNS: dict[str, tuple[str, ...]] = {
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


def explain(
    config: Config,
    contig: str,
    sample: str,
    contig_index: int | None = None,
    windows: int = 0,
    frames: bool = True,
) -> Explanation:
    """Collect what is known of a contig; sample: empty for the only one that has it.

    windows: maximum of the windows that are returned, 0: all; frames: whether with their open
    frames. Raises VirnucError where no contig has this id, or several, ResultError for tables that
    are damaged or of another version.
    """
    folder, index = _find(config, contig, sample, contig_index)
    only = pc.field("contig_index") == index
    (row,) = _rows(folder.parquet("contigs"), SCHEMAS["contigs"].names, only)
    shown = _rows(folder.parquet("windows"), _COLUMNS["windows"], only, windows)
    of_shown = only & (pc.field("window") <= (shown[-1]["window"] if shown else 0))
    calls, card = read_calls(folder.calls), read_card(config.run.bundle)
    prevalence = calls.contigs and calls.contigs.prevalence
    added = _added(folder, only, card) if row["called_windows"] else {}
    changed = not added and row["probability"] is not None
    if added and row["probability"] is not None:
        odds = np.array([sum(more for _, more in added.values())])
        expected = at_prevalence(odds, prevalence or EVEN)[0]
        changed = bool(abs(expected - row["probability"]) > _SAME)
    return Explanation(
        sample=folder.sample, contig=row, rule=calls.rule(config.calling, config.probability),
        prevalence=prevalence, added=added, changed=changed,
        regions=_rows(folder.parquet("regions"), _COLUMNS["regions"], only),
        windows=shown,
        frames=_rows(folder.parquet("orfs"), _COLUMNS["orfs"], of_shown) if frames else [],
    )  # fmt: skip


def _find(
    config: Config, contig: str, sample: str, contig_index: int | None
) -> tuple[SampleFolder, int]:
    """Return the tables of the sample that has a contig, and its contig_index."""
    run, samples = RunFolder(config.run.results), list(read_samples(config.inputs.samples))
    if sample and sample not in samples:
        near = _near(sample, samples)
        raise VirnucError(f"{config.inputs.samples}: no sample {sample!r} in it{near}")
    samples = [sample] if sample else samples
    folders = [each for each in map(run.sample, samples) if each.parquet("contigs").exists()]
    if not folders:
        raise VirnucError(f"{run.results}: no tables of {_some(samples)}; run the workflow first")
    only = pc.field("contig") == contig
    if contig_index is not None:
        only &= pc.field("contig_index") == contig_index
    found = [
        (folder, int(row["contig_index"]))
        for folder in folders
        for row in _rows(folder.parquet("contigs"), ("contig_index",), only)
    ]
    if not found and (unescaped := unquote(contig)) != contig:  # copied from a table
        return _find(config, unescaped, sample, contig_index)
    if not found:
        hint = _like(folders, contig)
        raise VirnucError(f"{contig!r}: no contig of {_some(samples)} has this id{hint}")
    if len({folder.sample for folder, _ in found}) > 1:
        names = _some([folder.sample for folder, _ in found])
        raise VirnucError(f"{contig}: samples {names} have it; give --sample")
    if len(found) > 1:
        several = _some([str(index) for _, index in found])
        raise VirnucError(f"{contig}: contig_index {several} have this id; give --contig-index")
    return found[0]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _CLOSE:,} more" if len(names) > _CLOSE else ""
    return ", ".join(names[:_CLOSE]) + more


def _near(wanted: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(wanted, names, _CLOSE, _ALIKE)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _like(folders: list[SampleFolder], contig: str) -> str:
    """Name contigs whose ids contain this one, else similar ones of the first of each sample."""
    paths, close = [folder.parquet("contigs") for folder in folders], list[str]()
    if contig:
        alike = pc.match_substring(pc.field("contig"), contig)
        close = [row["contig"] for path in paths for row in _rows(path, ("contig",), alike, _CLOSE)]
    if close:
        return f"; there are {', '.join(close[:_CLOSE])}"
    first = (row["contig"] for path in paths for row in _rows(path, ("contig",), None, _COMPARED))
    return _near(contig, first)


def _rows(
    path: Path, columns: Sequence[str], only: pc.Expression | None, most: int = 0
) -> list[Row]:
    """Read some rows of a table, `most` at most (0: all); see `_table_of`."""
    return _table_of(path, columns, only, most).to_pylist()  # type: ignore[no-any-return]


def _table_of(
    path: Path, columns: Sequence[str], only: pc.Expression | None, most: int = 0
) -> pa.Table:
    """Read some rows; only row groups that may have them are read."""
    with damage_named(path):
        table = ds.dataset(path, format=_FORMAT)
        wanted = {"columns": list(columns), "filter": only}
        return table.head(most, **wanted) if most else table.to_table(**wanted)


def _added(
    folder: SampleFolder, only: pc.Expression, card: BundleCard
) -> dict[str, tuple[float, float]]:
    """Return the features of a contig, and what each adds to its log odds; empty: no model."""
    model = card.contig_model
    if model is None or set(model.coefficients) != set(FEATURES):
        return {}
    names = ("start", "end", "score_virus", "margin", "call", "reason")
    table = _table_of(folder.parquet("windows"), names, only)
    start, end, score, margin = (table[name].to_numpy() for name in names[:4])  # null: NaN
    codes = pc.index_in(table["reason"], value_set=pa.array(list(Reason)))
    reason = codes.fill_null(NO_REASON).to_numpy().astype(np.int8)
    calls = WindowCalls(
        contigs=1,
        index=np.zeros(len(start), np.int64),
        start=start,
        end=end,
        score=score,
        reason=reason,
        virus=pc.equal(table["call"], Call.VIRUS).to_numpy(),
        margin=margin,
        log_odds=Odds.of(card.calibration).evidence(margin, reason == Reason.NO_OPEN_FRAME.code),
    )
    (values,) = features(calls, model.longest).tolist()
    pairs = zip(FEATURES, values, strict=True)
    added = {name: (value, value * model.coefficients[name]) for name, value in pairs}
    return {"intercept": (1.0, model.intercept), **added}


def rendered(it: Explanation, windows: int, frames: bool) -> RenderableType:
    """Return what a user reads on a `Terminal`; windows: how many are shown, 0: all."""
    return Group(*_parts(it, windows, frames))


def _parts(it: Explanation, windows: int, frames: bool) -> Iterator[RenderableType]:
    yield from _lines(it)
    if it.added:
        rows: list[Row] = [
            {"feature": name, "value": value, "adds": more}
            for name, (value, more) in it.added.items()
        ]
        total = sum(more for _, more in it.added.values())
        rows.append({"feature": "sum, where half of the contigs are viral", "adds": total})
        yield _table("log odds, by the model of contigs", "feature value adds", rows)
        if it.prevalence:
            yield f"The viral fraction of the contigs of the sample is {it.prevalence:.3f}."
    if it.changed:
        yield "The bundle has changed since: its model gives another probability."
    if it.regions:
        yield _table("regions", "bases windows evidence posterior", it.regions)
    shown = it.windows[: windows or None]
    known = any(window["probability"] is not None for window in it.windows)
    measure = "probability" if known else "margin"
    columns = f"window bases frames best virus non_viral {measure} call"
    yield _table("windows, by their best scores", columns, shown)
    if more_windows := it.contig["windows"] - len(shown):
        yield f"{more_windows:,} more windows: --windows 0 shows all"
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
        table.add_row(*(cells.get(name, "") for name in columns.split()))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
