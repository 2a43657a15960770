"""Why a contig has its call: its rows in the tables, and what the model of contigs makes of it."""

import difflib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel
from scipy.special import logit

from virnuc_rules.config.model import Config, Run
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.models.prevalence import at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_model import FEATURES, contig_log_odds, features
from virnuc_rules.prediction.read_tables import read_batches, read_calls
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.vocabulary import NO_REASON, Call, Reason

_COMPARED = 50_000  # ids of a sample that are compared with one that is not found
_SIMILAR = 0.75  # 1 is equal
_NAMED = 5  # contigs of the same id in a message
_SHORT = {  # names of columns on a terminal
    "open_frames": "open", "best_frame": "best", "score_non_viral": "non_viral",
    "score_virus": "virus", "start": "start-end", "call": "call or reason",
}  # fmt: skip

_LONG = ("end", "margin", "reason")  # columns that are not shown there as such

Row = dict[str, Any]


class Term(BaseModel):
    """A term of the log odds of virus: of a feature it is `value` times `coefficient`."""

    name: str
    value: float | None = None
    coefficient: float | None = None
    log_odds: float


class Explanation(BaseModel):
    """All about the call of a contig; rows have the columns of the tables, see docs/outputs.md."""

    sample: str
    contig: str
    contig_index: int
    row: Row
    rule: str  # for the contigs of the sample
    cutoff: float | None  # of the probability; None: the keys `min_*` decide
    prevalence: float | None  # viral fraction of the contigs of the sample
    terms: list[Term]  # their sum gives the probability; empty: no model of contigs, or no call
    note: str  # why there are no terms, though there is a probability
    regions: list[Row]
    windows: list[Row]  # the first ones
    more_windows: int
    frames: list[Row]  # of these windows, if asked for

    def lines(self) -> Iterator[str]:
        """Yield the explanation as text. No line is cut, however narrow a terminal is."""
        yield f"{self.contig} (sample {self.sample}, contig_index {self.contig_index})"
        yield from _aligned([name, value] for name, value in self.row.items())
        yield f"\n{self.rule}"
        known = {"cutoff": self.cutoff, "viral fraction of the contigs": self.prevalence}
        yield from _aligned([k, v] for k, v in known.items() if v is not None)
        if self.terms:
            total = Term(name="sum", log_odds=sum(term.log_odds for term in self.terms))
            yield "\nLog odds of virus, by the bundle's model of contigs"
            yield from _table([term.model_dump() for term in (*self.terms, total)])
        if self.note:
            yield f"\n{self.note}"
        yield f"\nViral regions: {len(self.regions)}"
        yield from _table(map(_short, self.regions))
        yield f"\nWindows: {len(self.windows) + self.more_windows:,}"
        yield from _table(map(_short, self.windows))
        if self.more_windows:
            yield f"  and {self.more_windows:,} more (--windows 0: all)"
        if self.frames:
            yield "\nOpen frames of these windows"
            yield from _table(map(_short, self.frames))


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
    shown = list(islice(_rows(folder, "windows", index), windows or None))
    last, all_frames = shown[-1]["window"] if shown else 0, _rows(folder, "orfs", index)
    calls = read_calls(folder.calls)
    prevalence, terms, note = None, list[Term](), ""
    if calls.contigs:
        prevalence = calls.contigs.prevalence
    if prevalence is not None and row["probability"] is not None:
        try:
            terms = _terms(config.run, folder, index, prevalence, row["probability"])
        except ModelError as error:
            note = f"The terms of the probability are not known: {error}"
    return Explanation(
        sample=folder.sample,
        contig=contig,
        contig_index=index,
        row=row,
        rule=calls.rule(config.calling, config.probability.max_fdr),
        cutoff=calls.cutoff,
        prevalence=prevalence,
        terms=terms,
        note=note,
        regions=list(_rows(folder, "regions", index)),
        windows=shown,
        more_windows=row["windows"] - len(shown),
        frames=[each for each in all_frames if each["window"] <= last] if frames else [],
    )


def _find(
    config: Config, contig: str, sample: str, contig_index: int | None
) -> tuple[SampleFolder, int]:
    """Return the tables of the sample that has a contig, and its contig_index."""
    samples, run = list(read_samples(config.inputs.samples)), RunFolder(config.run.results)
    if sample and sample not in samples:
        raise VirnucError(
            f"no sample {sample!r} in {config.inputs.samples}{_near(sample, samples)}"
        )
    folders = [run.sample(name) for name in ([sample] if sample else samples)]
    finished = [folder for folder in folders if folder.calls.exists()]
    if not finished:
        raise VirnucError(f"{folders[0].path}: no tables; run the workflow, or `predict`, first")
    places = [(folder, index) for folder in finished for index in _indices(folder, contig)]
    if contig_index is not None:
        places = [place for place in places if place[1] == contig_index]
    if not places:
        where = f"sample {sample}" if sample else f"{len(finished)} of {len(folders)} samples"
        ids = (name for folder in finished for name in islice(_ids(folder), _COMPARED))
        raise VirnucError(f"no contig {contig!r} in the tables of {where}{_near(contig, ids)}")
    if len(places) > 1:
        named = [f"sample {folder.sample} contig_index {index}" for folder, index in places]
        more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
        raise VirnucError(
            f"{len(named):,} contigs {contig!r}: {', '.join(named[:_NAMED])}{more}; choose one "
            "with --sample or --contig-index"
        )
    return places[0]


def _near(wanted: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(wanted, names, 3, _SIMILAR)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _indices(folder: SampleFolder, contig: str) -> Iterator[int]:
    for batch in read_batches(folder.parquet("contigs"), "contig_index", "contig"):
        yield from batch.filter(pc.equal(batch["contig"], contig))["contig_index"].to_pylist()


def _ids(folder: SampleFolder) -> Iterator[str]:
    for batch in read_batches(folder.parquet("contigs"), "contig"):
        yield from batch["contig"].to_pylist()


def _rows(folder: SampleFolder, table: str, contig_index: int) -> Iterator[Row]:
    """Yield the rows of a contig, without the columns that name it."""
    names = [name for name in SCHEMAS[table].names if name not in ("contig_index", "contig")]
    for batch in read_batches(folder.parquet(table), *names, contig_index=contig_index):
        yield from batch.to_pylist()


def _terms(
    run: Run, folder: SampleFolder, contig_index: int, prevalence: float, probability: float
) -> list[Term]:
    """Return the terms of the log odds of a contig with this probability.

    Raises ModelError where the bundle is gone, or gives another probability.
    """
    card = read_card(run.bundle)
    model, windows = card.contig_model, _window_calls(card, folder, contig_index)
    again = at_prevalence(contig_log_odds(windows, model), prevalence) if model else np.nan
    if model is None or not np.allclose(again, probability, atol=1e-5):
        raise ModelError(f"bundle {card.name} is not the one of these tables; run again")
    terms = [Term(name="intercept", log_odds=model.intercept)]
    for name, value in zip(FEATURES, features(windows, model.longest)[0].tolist(), strict=True):
        by = model.coefficients[name]
        terms.append(Term(name=name, value=value, coefficient=by, log_odds=value * by))
    return [*terms, Term(name="prevalence", value=prevalence, log_odds=float(logit(prevalence)))]


def _window_calls(card: BundleCard, folder: SampleFolder, contig_index: int) -> WindowCalls:
    """Return the windows of a contig as they were when it was called."""
    names = ("start", "end", "score_virus", "margin", "call", "reason")
    path = folder.parquet("windows")
    table = pa.Table.from_batches(read_batches(path, *names, contig_index=contig_index))
    start, end, score, margin = (table[name].to_numpy() for name in names[:4])
    reasons = pc.index_in(table["reason"], value_set=pa.array(list(Reason)))
    reason = reasons.fill_null(NO_REASON).to_numpy().astype(np.int8)
    odds = Odds.of(card.calibration).evidence(margin, reason == Reason.NO_OPEN_FRAME.code)
    virus = pc.equal(table["call"], Call.VIRUS).to_numpy()
    index = np.zeros(len(start), np.int64)
    return WindowCalls(1, index, start, end, score, reason, virus, margin, odds)


def _short(row: Row) -> Row:
    """Return a row for a terminal: shorter names, start and end in one, the reason as the call."""
    shown = {_SHORT.get(name, name): value for name, value in row.items() if name not in _LONG}
    shown["start-end"] = f"{row['start']}-{row['end']}"
    if row.get("reason"):
        shown["call or reason"] = row["reason"]
    return shown


def _table(rows: Iterable[Row]) -> Iterator[str]:
    if rows := list(rows):
        yield from _aligned([list(rows[0]), *(row.values() for row in rows)])


def _aligned(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    texts = [[*map(_text, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
