"""Reading FASTA and FASTQ: every contig once, in order, in little memory; errors name the record.

A read of a FASTQ file is a contig; its qualities are only counted. The two files of paired reads
are read as two independent files.
"""

import codecs
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from virnuc_rules.errors import EnvironmentProblem, InputError, UnreadableInput, VirnucError
from virnuc_rules.files.environment import cause
from virnuc_rules.reading.streams import STDIN, Source

logger = logging.getLogger(__name__)

IUPAC = b"ACGTURYSWKMBDHVNacgturyswkmbdhvn"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b">\0", b"@\0", b"\0>", b"\0@")
_BLANKS = b"\r \t"
_FASTQ_ONLY = b"@+"
_AMINO_ACIDS_ONLY = b"EFILPQZXJO*efilpqzxjo"
_BLOCK = 1 << 20  # bytes of text read at a time
_HEADER = 1 << 20  # bytes of the longest header line
_ID = 1 << 10  # bytes of the longest id: it is in every row of the tables
_SPILL = 1 << 25  # a contig of more bases is kept on disk, not in memory


class Contig:
    """One contig: its id and its bases as written in the file, without line breaks.

    Raises VirnucError where there is no room for a long one in the folder of temporary files.
    """

    def __init__(self, name: str, index: int = 0, source: int = 0, record: int = 0) -> None:
        self.id = name
        self.index = index  # 0-based, over all files of the sample
        self.source = source  # index of the file
        self.record = record  # 0-based, in the file
        self.length = 0
        # Lives as long as the contig.
        self._file = tempfile.SpooledTemporaryFile(_SPILL, prefix="virnuc-")  # noqa: SIM115

    def append(self, bases: bytes) -> None:
        """Add bases at the end; not after a call of `bases`."""
        self.length += len(bases)
        try:
            self._file.write(bases)
        except OSError as error:
            raise _not_held(error) from None

    def bases(self, start: int, end: int) -> bytes:
        """Return the bases `start` to `end` (0-based, half open)."""
        try:
            self._file.seek(start)
            return self._file.read(end - start)
        except OSError as error:
            raise _not_held(error) from None


def _not_held(error: OSError) -> VirnucError:
    kind = EnvironmentProblem if cause(error) else VirnucError
    return kind(
        f"{tempfile.gettempdir()}: cannot hold a long contig ({error.strerror}); make room there, "
        "or set TMPDIR to another folder"
    )


class Sequences:
    """The sequence files of a sample, read one after the other, as one list of contigs.

    `advance` is called with the number of bytes read from a file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sample: str,
        *,
        keep_duplicates: bool = False,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.paths, self.sample, self.advance = paths, sample, advance
        self.sha256: list[str] = []  # of the files that were read completely
        self.contig_count = 0  # so far
        self.keep_duplicates = keep_duplicates
        self.seen: set[str] = set()

    def contigs(self) -> Iterator[Contig]:
        """Yield the contigs.

        Each contig is checked before it is yielded. Raises InputError with one line (sample, file,
        record, fix) for a file that is missing, truncated or neither FASTA nor FASTQ, a record
        without id, an id used twice (unless `keep_duplicates`), or a letter that is no nucleotide;
        UnreadableInput for a file that the system cannot read now, such as one without permission.
        An empty file has no contigs, which is logged; a record without bases is an empty contig.
        """
        for index, path in enumerate(self.paths):
            file = _File(self, index, path)
            try:
                yield from file.contigs()
                self.sha256.append(file.source.sha256)
            finally:
                file.source.close()


def _kind(error: OSError | ValueError) -> type[InputError]:
    """Tell a file that could not be read now from one that is missing or has wrong content."""
    return UnreadableInput if cause(error) else InputError


class _File:
    """Reads one file, and names its current record in error messages."""

    def __init__(self, sequences: Sequences, index: int, path: Path) -> None:
        self.sequences, self.index, self.path = sequences, index, path
        self.contig: Contig | None = None
        self.record = 0  # records begun
        try:
            self.source = Source(path, sequences.advance)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            problem = f"cannot be read ({reason}); check the path in the sample sheet"
            raise self.error(problem, kind=_kind(error)) from None

    def error(
        self, problem: str, contig: Contig | None = None, kind: type[InputError] = InputError
    ) -> InputError:
        name = "standard input" if self.path == STDIN else self.path
        record = f' record {contig.record + 1} ("{contig.id}"):' if contig else ""
        return kind(f"sample {self.sequences.sample}: {name}:{record} {problem}")

    def header_error(self, problem: str) -> InputError:
        return self.error(f"record {self.record + 1}: {problem}")

    def contigs(self) -> Iterator[Contig]:
        blocks = self.blocks()
        first = b""
        for block in blocks:
            first = (first + block).removeprefix(codecs.BOM_UTF8).lstrip()
            if len(first) > len(codecs.BOM_UTF8):
                break
        if not first:
            logger.warning("%s", self.error("the file is empty: it has no contigs"))
            return iter(())
        blocks = itertools.chain([first], blocks)
        if first.startswith(_UTF_16):
            raise self.error("this is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW")
        if first[:1] == b">":
            return self.fasta(blocks)
        if first[:1] == b"@":
            return self.fastq(blocks)
        letter = first[:1].decode("latin-1")
        raise self.error(
            f"this is neither FASTA nor FASTQ: it begins with {letter!r}, not with '>' or '@'"
        )

    def blocks(self) -> Iterator[bytes]:
        try:
            yield from self.source.blocks(_BLOCK)
        except OSError as error:
            kind = _kind(error)
            fix = "copy or download it again" if kind is InputError else "run again when it can be"
            problem = f"cannot be read to its end ({error}); {fix}"
            raise self.error(problem, self.contig, kind) from None

    def fasta(self, blocks: Iterator[bytes]) -> Iterator[Contig]:
        for text in self.lines(blocks):
            first, *records = text.split(b"\n>")
            self.extend(first)
            for record in records:
                if self.contig is not None:
                    yield self.finished(self.contig)
                header, _, bases = record.partition(b"\n")
                self.contig = self.begin(header)
                self.extend(bases)
        if self.contig is not None:
            yield self.finished(self.contig)

    def lines(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the text in large pieces that never split a header line.

        A piece begins with the newline before its first line (one is added before the first line
        of the file), unless it continues a sequence line. So "\\n>" always begins a record.
        """
        rest = b"\n"
        for block in blocks:
            text = rest + block
            cut = text.rfind(b"\n")
            if cut > 0:
                yield text[:cut]
                rest = text[cut:]
            elif cut < 0 or text[1:2] not in (b"", b">"):  # inside a very long sequence line
                yield text
                rest = b""
            else:  # a header line that is not complete yet
                self.check_header(text)
                rest = text
        if rest.strip():
            yield rest

    def fastq(self, blocks: Iterator[bytes]) -> Iterator[Contig]:
        line = qualities = 0  # index of the record's line, 0 to 3; letters in the last
        held = b""  # text of an incomplete first or third line
        for piece, ends in _pieces(blocks):
            if line == 1:
                self.extend(piece)
            elif line == 3:
                qualities += len(piece.translate(None, _BLANKS))
            else:
                held += piece
                self.check_header(held)
            if not ends:
                continue
            if line == 0 and not held.strip():  # a blank line between records
                held = b""
                continue
            if line == 0:
                self.contig = self.begin_read(held)
            elif line == 2 and held[:1] != b"+":
                raise self.error(
                    "the third line does not begin with '+'; a record must have four lines, with "
                    "the sequence in one (`seqtk seq` rewrites others)", self.contig
                )  # fmt: skip
            elif line == 3 and self.contig is not None:
                yield self.finished(self.contig, qualities)
                qualities = 0
            held = b""
            line = (line + 1) % 4
        if line:
            raise self.error(
                "the file ends in the middle of this record; copy or download it again", self.contig
            )

    def check_header(self, text: bytes) -> None:
        """Raise InputError for a line that is too long for a header."""
        if len(text) > _HEADER and b"\r" not in text:
            raise self.header_error(f"the header has more than {_HEADER} bytes; shorten it")
        if len(text) > _HEADER:
            raise self.carriage_returns()

    def carriage_returns(self) -> InputError:
        return self.error(
            "the lines end in single carriage returns, as on old Macs; convert them: "
            "tr '\\r' '\\n' < OLD > NEW"
        )

    def begin_read(self, header: bytes) -> Contig:
        if header[:1] == b"@":
            return self.begin(header[1:])
        if header[:1] == b">":
            raise self.header_error("a FASTA record in a FASTQ file; put them into two files")
        raise self.header_error(
            "expected '@'; a record must have four lines (`seqtk seq` rewrites others)"
        )

    def begin(self, header: bytes) -> Contig:
        if b"\r" in header[:-1]:
            raise self.carriage_returns()
        words = header.split(None, 1)
        if not words or header[:1].isspace():
            raise self.header_error("no id; give the record a name")
        try:
            name = words[0].decode()
        except UnicodeDecodeError:
            raise self.header_error("the id is not UTF-8; rename the record") from None
        if len(words[0]) > _ID:
            raise self.header_error(
                f"the id has {len(words[0])} bytes, more than {_ID}; shorten it"
            )
        if not name.isprintable():
            raise self.header_error("unprintable letters in the id; rename the record")
        sequences = self.sequences
        contig = Contig(name, sequences.contig_count, self.index, self.record)
        if not sequences.keep_duplicates:
            if name in sequences.seen:
                raise self.error(
                    "this id is used twice in the sample; make ids unique, or set `duplicate_ids: "
                    "keep` (the reads of a pair have one id in both files)", contig
                )  # fmt: skip
            sequences.seen.add(name)
        sequences.contig_count += 1
        self.record += 1
        return contig

    def extend(self, text: bytes) -> None:
        bases = text.replace(b"\n", b"")
        if illegal := bases.translate(None, IUPAC):
            bases, illegal = bases.translate(None, _BLANKS), illegal.translate(None, _BLANKS)
        if not bases or self.contig is None:
            return
        if illegal:
            letter = illegal[:1].decode("latin-1")
            position = self.contig.length + bases.index(illegal[:1]) + 1
            hint = "allowed are A C G T U and the IUPAC codes RYSWKMBDHVN"
            if illegal[0] in _AMINO_ACIDS_ONLY:
                hint = "this looks like protein; nucleotides are needed"
            elif illegal[0] in _FASTQ_ONLY and position > 1:
                hint = "this looks like a FASTQ record in a FASTA file; put them into two files"
            raise self.error(f"illegal letter {letter!r} at base {position}; {hint}", self.contig)
        self.contig.append(bases)

    def finished(self, contig: Contig, qualities: int | None = None) -> Contig:
        if qualities not in (None, contig.length):
            raise self.error(
                f"{qualities} qualities for {contig.length} bases; copy or download the file again "
                "(a record must have four lines)", contig
            )  # fmt: skip
        return contig


def _pieces(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield lines, or parts of long ones; the flag is True at the end of a line."""
    last = b""
    for block in blocks:
        *lines, last = block.split(b"\n")
        for line in lines:
            yield line, True
        if last:
            yield last, False
    if last:
        yield b"", True
