"""Tables of other tools, joined to the viral sequences of a sample by the ids of sequences."""

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from virnuc_rules.errors import VirnucError
from virnuc_rules.files.environment import environment_named
from virnuc_rules.reading.streams import Source

_PROVIRUS = r"\|provirus_\d+_\d+$"  # geNomad adds it to the id of a contig
_ID = ""  # name of the first column; pandas gives a column without a name another one
_BLOCK = 1 << 20  # bytes of a table that are read at a time
_MOST = 1 << 28  # bytes of a table, which its compressed file does not tell
_SEPARATOR = "; "  # between the values of several rows
COUNTS = ("rows", "joined", "not_viral", "unmatched")  # not viral, and of no contig: not joined


def read_annotations(path: Path) -> pd.DataFrame:
    """Read a table as text, plain or compressed as `Source` does; the first column is named "".

    Raises VirnucError where it is no tab-separated table with a header and two columns.
    """
    try:
        # Absolute: `-` is a file here, not standard input.
        with (
            environment_named(path),
            contextlib.closing(Source(path.absolute(), lambda _: None)) as source,
        ):
            content = bytearray()
            for block in source.blocks(_BLOCK):
                content += block
                if len(content) > _MOST:
                    raise ValueError(f"more than {_MOST >> 20} MB of text")
            frame = pd.read_csv(
                io.BytesIO(content), sep="\t", dtype=str, keep_default_na=False,
                quoting=csv.QUOTE_NONE, lineterminator="\n", skiprows=_comments(content),
                encoding="utf-8-sig",
            )  # fmt: skip
        if not isinstance(frame.index, pd.RangeIndex):
            raise ValueError("rows have more cells than the header")
        if len(frame.columns) < 2:
            raise ValueError("only one column")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise VirnucError(
            f"{path}: cannot be read ({reason}); a table of annotations is tab-separated, has a "
            "header, and the ids of contigs in its first column"
        ) from None
    frame = frame.fillna("").apply(_clean)
    frame = frame.set_axis([_ID, *_clean(frame.columns.to_series())[1:]], axis="columns")
    empty = [name for name in frame if name.startswith("Unnamed: ") and not frame[name].any()]
    return frame.drop(columns=empty)


def _comments(content: bytes | bytearray) -> int:
    """Count lines with # before the header, which may begin with # itself."""
    comments, last = 0, b""
    for line in io.BytesIO(content):
        if not line.startswith(b"#"):
            is_header = last.count(b"\t") == line.count(b"\t")
            return comments - (is_header and _is_name(last))
        comments, last = comments + 1, line
    return max(0, comments - 1)  # a header and no rows


def _is_name(line: bytes) -> bool:
    """Tell a header such as `#contig` from a comment."""
    return line.startswith(b"#") and not line.startswith((b"# ", b"##"))


def _clean(values: "pd.Series[str]") -> "pd.Series[str]":
    """Strip cells; none may hold what ends a line of the joined table, or changes a terminal."""
    return values.str.replace(r"[\x00-\x1f\x7f]+", " ", regex=True).str.strip()


class Annotation:
    """What tables of one kind say about the sequences of a sample.

    An id is that of a contig, or the name of a region in regions.fa.gz; both also as viruses.fa.gz
    has them, after the sample and `|`. A provirus of geNomad says it of its contig.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], sample: str, samples: Iterable[str],
        sequences: Iterable[str],
    ) -> None:  # fmt: skip
        """Read the tables. Raises VirnucError as `read_annotations` does.

        name: what the columns begin with; samples: all of the sheet, as a table may be of several;
        sequences: names of all contigs and regions of this sample.
        """
        frame = pd.concat(map(read_annotations, paths), ignore_index=True).fillna("")
        ids = frame.pop(_ID)
        forms = [ids, ids.str.removeprefix(f"{sample}|")]
        forms += [form.str.replace(_PROVIRUS, "", regex=True) for form in forms]
        known = set[str]().union(*forms).intersection(sequences)
        found = pd.Series(None, ids.index, dtype=object)
        for form in forms:
            found = found.fillna(form.where(form.isin(known)))
        others = tuple(f"{other}|" for other in samples if other != sample)
        is_own = found.notna() | ~ids.str.startswith(others)
        self.name, self.paths, self.rows = name, paths, int(is_own.sum())
        self.unmatched = ids[is_own & found.isna()].tolist()
        self._sequence = found.dropna()  # of each row
        values = frame.loc[self._sequence.index].set_axis(self._sequence)
        twice = values.index.duplicated(keep=False)
        merged = values[twice].groupby(level=0, sort=False).agg(_distinct)
        self._values = pd.concat([values[~twice], merged]).add_prefix(f"{name}.")
        self.columns = list(self._values.columns)
        self._joined = set[str]()

    def of(self, contigs: Iterable[str], regions: Iterable[str | None]) -> pd.DataFrame:
        """Return what is known of sequences, a row each; null: nothing.

        contigs: id of each; regions: name, None for a whole contig. What is said of a contig holds
        for a region of which nothing is said.
        """
        there = self._values.index
        pairs = zip(contigs, regions, strict=True)
        keys = [region if region in there else contig for contig, region in pairs]
        self._joined.update(there.intersection(keys))
        return self._values.reindex(keys).replace("", None).reset_index(drop=True)

    def counts(self) -> dict[str, int]:
        """Return COUNTS: how many rows there are, and what became of them."""
        joined, unmatched = int(self._sequence.isin(self._joined).sum()), len(self.unmatched)
        counts = self.rows, joined, len(self._sequence) - joined, unmatched
        return dict(zip(COUNTS, counts, strict=True))


def _distinct(values: "pd.Series[str]") -> str:
    return _SEPARATOR.join(dict.fromkeys(filter(None, values)))
