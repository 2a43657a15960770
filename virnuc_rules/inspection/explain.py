"""Why a contig has its call: its rows in the tables, and what the model of contigs makes of them."""

import difflib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel
from scipy.special import logit

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.models.prevalence import at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_model import FEATURES, contig_log_odds, features
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.prediction.read_tables import read_batches, read_calls
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.vocabulary import NO_REASON, Call, Reason

_COMPARED = 50_000  # ids of a sample that are compared with one that is not found
_IN_HEADING = ("contig_index", "contig")  # columns that all rows have in common
_OTHER_BUNDLE = "tables and bundle do not belong together: run the workflow again"

Row = dict[str, Any]


class Term(BaseModel):
    """A term of the log odds of virus; `value` times `coefficient`, where it is of a feature."""

    name: str
    value: float | None
    coefficient: float | None
    log_odds: float


class Explanation(BaseModel):
    """All about the call of a contig; rows are those of the tables, see docs/outputs.md."""

    sample: str
    contig: Row
    rule: str  # for the contigs of the sample
    cutoff: float | None  # of the probability; None: the keys `min_*` decide
    prevalence: float | None  # viral fraction of the contigs of the sample
    terms: list[Term]  # their sum gives the probability; empty: no model of contigs, or no call
    note: str  # why there are no terms, though there could be; empty: nothing to say
    regions: list[Row]
    windows: list[Row]  # the first ones
    more_windows: int
    frames: list[Row]  # of these windows, if asked for

    def lines(self) -> Iterator[str]:
        """Yield the explanation as lines of text."""
        row = {name: value for name, value in self.contig.items() if name not in _IN_HEADING}
        yield f"{self.contig['contig']} (sample {self.sample}, contig_index {self._index})"
        yield from _aligned([[name, _text(value)] for name, value in row.items()])
        yield f"\n{self.rule}"
        for name in ("cutoff", "prevalence"):
            if (value := getattr(self, name)) is not None:
                yield f"  {name} of the sample's contigs: {_text(value)}"
        if self.note:
            yield f"  {self.note}"
        if self.terms:
            yield "\nLog odds of virus, by the bundle's model of contigs"
            total = Term(name="sum", value=None, coefficient=None, log_odds=self._log_odds)
            yield from _table([term.model_dump() for term in (*self.terms, total)])
        yield f"\nViral regions: {len(self.regions)}"
        yield from _table(self.regions)
        yield f"\nWindows: {len(self.windows) + self.more_windows}"
        yield from _table(self.windows)
        if self.more_windows:
            yield f"  ... and {self.more_windows:,} more (--windows 0: all)"
        if self.frames:
            yield "\nOpen frames of these windows"
            yield from _table(self.frames)

    @property
    def _index(self) -> int:
        return int(self.contig["contig_index"])

    @property
    def _log_odds(self) -> float:
        return sum(term.log_odds for term in self.terms)


def explain(
    config: Config,
    contig: str,
    sample: str = "",
    contig_index: int | None = None,
    windows: int = 20,
    frames: bool = False,
) -> Explanation:
    """Explain the call of a contig of a sample; empty: of the only sample that has this contig.

    windows: number of those shown, 0 for all. Raises VirnucError where there is no such contig, or
    more than one, and ResultError for a table that is damaged or of another version.
    """
    folder, index = _find(config, contig, sample, contig_index)
    (row,) = _rows(folder, "contigs", index)
    calls = read_calls(folder.calls)
    terms, note = _terms(config.run.bundle, folder, row, calls)
    shown = list(islice(_rows(folder, "windows", index), windows or None))
    last = shown[-1]["window"] if shown else 0
    all_frames = _rows(folder, "orfs", index) if frames else ()
    return Explanation(
        sample=folder.sample,
        contig=row,
        rule=calls.rule(config.calling, config.probability.max_fdr),
        cutoff=calls.cutoff,
        prevalence=calls.contigs and calls.contigs.prevalence,
        terms=terms,
        note=note,
        regions=[_own(row) for row in _rows(folder, "regions", index)],
        windows=[_own(row) for row in shown],
        more_windows=row["windows"] - len(shown),
        frames=[_own(row) for row in all_frames if row["window"] <= last],
    )


def _rows(folder: SampleFolder, table: str, contig_index: int) -> Iterator[Row]:
    names = SCHEMAS[table].names
    for batch in read_batches(folder.parquet(table), *names, contig_index=contig_index):
        yield from batch.to_pylist()


def _own(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _IN_HEADING}


def _find(
    config: Config, contig: str, sample: str, contig_index: int | None
) -> tuple[SampleFolder, int]:
    """Return the tables of the sample that has a contig, and its contig_index."""
    samples, run = list(read_samples(config.inputs.samples)), RunFolder(config.run.results)
    if sample and sample not in samples:
        raise VirnucError(f"no sample {sample!r}; there is {_some(sample, samples)}")
    folders = [run.sample(name) for name in ([sample] if sample else samples)]
    finished = [folder for folder in folders if folder.calls.exists()]
    if not finished:
        raise VirnucError(f"{folders[0].path}: no tables; run the workflow first")
    places = [(folder, index) for folder in finished for index in _indices(folder, contig)]
    if contig_index is not None:
        places = [place for place in places if place[1] == contig_index]
    if not places:
        ids = (name for folder in finished for name in islice(_ids(folder), _COMPARED))
        near = difflib.get_close_matches(contig.strip(), ids, 3)
        hint = f"; near to it {'are' if near[1:] else 'is'} {', '.join(near)}" if near else ""
        tables = f"{len(finished)} of {len(folders)} samples have tables" if not sample else sample
        raise VirnucError(f"no contig {contig!r} ({tables}){hint}")
    if len(places) > 1:
        named = [f"sample {folder.sample} contig_index {index}" for folder, index in places]
        more = f" and {len(named) - 5:,} more" if named[5:] else ""
        raise VirnucError(
            f"{len(named):,} contigs {contig!r}: {', '.join(named[:5])}{more}; choose one with "
            "--sample, or --contig-index"
        )
    return places[0]


def _some(wanted: str, names: list[str]) -> str:
    near = difflib.get_close_matches(wanted, names, 3) or names[:3]
    return ", ".join(near) + (", ..." if len(names) > len(near) else "")


def _indices(folder: SampleFolder, contig: str) -> Iterator[int]:
    for batch in read_batches(folder.parquet("contigs"), "contig_index", "contig"):
        yield from batch.filter(pc.equal(batch["contig"], contig))["contig_index"].to_pylist()


def _ids(folder: SampleFolder) -> Iterator[str]:
    for batch in read_batches(folder.parquet("contigs"), "contig"):
        yield from batch["contig"].to_pylist()


def _terms(
    bundle: Path, folder: SampleFolder, row: Row, calls: SampleCalls
) -> tuple[list[Term], str]:
    """Return the terms of the log odds of a contig, [] if it has none, and what prevents them."""
    if row["probability"] is None or calls.contigs is None:
        return [], ""
    try:
        card = read_card(bundle)
        if (model := card.contig_model) is None:
            return [], _OTHER_BUNDLE
        windows = _window_calls(card, folder, row["contig_index"])
        odds = contig_log_odds(windows, model)
    except ModelError as error:
        return [], str(error)
    prevalence = calls.contigs.prevalence
    if not np.allclose(at_prevalence(odds, prevalence), row["probability"], atol=1e-5):
        return [], _OTHER_BUNDLE
    terms = [Term(name="intercept", value=None, coefficient=None, log_odds=model.intercept)]
    for name, value in zip(FEATURES, features(windows, model.longest)[0].tolist(), strict=True):
        by = model.coefficients[name]
        terms.append(Term(name=name, value=value, coefficient=by, log_odds=value * by))
    shift = float(logit(prevalence))
    terms.append(Term(name="prevalence", value=prevalence, coefficient=None, log_odds=shift))
    return terms, ""


def _window_calls(card: BundleCard, folder: SampleFolder, contig_index: int) -> WindowCalls:
    """Return the windows of a contig as they were when it was called."""
    names = ("start", "end", "score_virus", "margin", "call", "reason")
    path = folder.parquet("windows")
    table = pa.Table.from_batches(read_batches(path, *names, contig_index=contig_index))
    reasons = pc.index_in(table["reason"], value_set=pa.array(list(Reason)))
    reason = reasons.fill_null(NO_REASON).to_numpy().astype(np.int8)
    margin = table["margin"].to_numpy()
    silent = reason == Reason.NO_OPEN_FRAME.code
    return WindowCalls(
        contigs=1,
        index=np.zeros(table.num_rows, np.int64),
        start=table["start"].to_numpy(),
        end=table["end"].to_numpy(),
        score=table["score_virus"].to_numpy(),
        reason=reason,
        virus=pc.equal(table["call"], Call.VIRUS).to_numpy(),
        margin=margin,
        log_odds=Odds.of(card.calibration).evidence(margin, silent),
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: list[Row]) -> Iterator[str]:
    """Lay rows out below their names; nothing is cut, however narrow the terminal is."""
    if rows:
        yield from _aligned([list(rows[0]), *([*map(_text, row.values())] for row in rows)])


def _aligned(rows: Iterable[list[str]]) -> Iterator[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()
