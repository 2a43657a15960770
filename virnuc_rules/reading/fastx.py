"""Reading FASTA and FASTQ: every contig once, in order, in little memory; errors name the record.

A read of a FASTQ file is a contig like any other; its qualities are only counted. The two files of
paired reads are just two files.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from virnuc_rules.errors import InputError
from virnuc_rules.reading.streams import STDIN, Source

IUPAC = b"ACGTURYSWKMBDHVNacgturyswkmbdhvn"
_BLANKS = b"\r \t"
_FASTQ_ONLY = b"@+"
_AMINO_ACIDS_ONLY = b"EFILPQZXJO*efilpqzxjo"
_BLOCK = 1 << 20  # bytes of text read at a time
_HEADER = 1 << 20  # bytes of the longest header line
_SPILL = 1 << 25  # a contig beyond this many bases is kept on disk, not in memory


class Contig:
    """One contig: its id and its bases as they stand in the file, without line breaks."""

    def __init__(self, name: str, index: int = 0, source: int = 0, record: int = 0) -> None:
        self.id = name
        self.index = index  # 0-based, over all files of the sample
        self.source = source  # which of them
        self.record = record  # 0-based place in the file
        self.length = 0
        self._parts: list[bytes] = []
        self._disk: IO[bytes] | None = None

    def append(self, bases: bytes) -> None:
        """Add bases at the end; a very long contig moves to a temporary file."""
        self.length += len(bases)
        if self._disk is not None:
            self._disk.write(bases)
            return
        self._parts.append(bases)
        if self.length > _SPILL:
            self._disk = tempfile.TemporaryFile(prefix="virnuc-")  # noqa: SIM115 - lives as long as the contig
            self._disk.writelines(self._parts)
            self._parts = []

    def bases(self, start: int, end: int) -> bytes:
        """Return the bases `start` to `end` (0-based, half open)."""
        if self._disk is not None:
            self._disk.seek(start)
            return self._disk.read(end - start)
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        whole = self._parts[0] if self._parts else b""
        return whole if end - start == self.length else whole[start:end]


class Sequences:
    """The sequence files of a sample, read one after the other, as one list of contigs.

    `advance` is told how many bytes of the files were read.
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
        self.sha256: list[str] = []  # of the files that were read to their end
        self.contig_count = 0  # so far
        self.keep_duplicates = keep_duplicates
        self.seen: set[str] = set()

    def contigs(self) -> Iterator[Contig]:
        """Yield the contigs.

        A contig is checked before it is given out, and the caller uses it before the next is asked
        for. Raises InputError with one line (sample, file, record, fix) for a file that is missing,
        empty, truncated or neither FASTA nor FASTQ, a record without id or sequence, an id used
        twice (unless `keep_duplicates`), or a letter that is no nucleotide.
        """
        for index, path in enumerate(self.paths):
            file = _File(self, index, path)
            try:
                yield from file.contigs()
                self.sha256.append(file.source.sha256)
            finally:
                file.source.close()


class _File:
    """The state of reading one file: which record we are in, also for the error messages."""

    def __init__(self, sequences: Sequences, index: int, path: Path) -> None:
        self.sequences, self.index, self.path = sequences, index, path
        self.contig: Contig | None = None
        self.record = 0  # records begun
        try:
            self.source = Source(path, sequences.advance)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self.error(
                f"cannot be read ({reason}); check the path in the sample sheet"
            ) from None

    def error(self, problem: str, contig: Contig | None = None) -> InputError:
        name = "standard input" if self.path == STDIN else self.path
        record = f' record {contig.record + 1} ("{contig.id}"):' if contig else ""
        return InputError(f"sample {self.sequences.sample}: {name}:{record} {problem}")

    def unnamed(self, problem: str) -> InputError:
        return self.error(f"record {self.record + 1}: {problem}")

    def contigs(self) -> Iterator[Contig]:
        blocks = self.blocks()
        first = next((text for block in blocks if (text := block.lstrip())), b"")
        if not first:
            raise self.error("the file is empty; expected FASTA or FASTQ records")
        blocks = itertools.chain([first], blocks)
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
            problem = f"cannot be read to its end ({error}); copy or download it again"
            raise self.error(problem, self.contig) from None

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

        Every piece but the rest of a long sequence line begins with the newline before it (one is
        put before the first line), so that "\\n>" always means: a new record.
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
        line = qualities = 0  # which of the record's four lines; letters in the fourth
        held = b""  # of a first or third line
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
                yield self.finished_read(self.contig, qualities)
                qualities = 0
            held = b""
            line = (line + 1) % 4
        if line:
            raise self.error(
                "the file ends in the middle of this record; copy or download it again", self.contig
            )

    def check_header(self, text: bytes) -> None:
        """Raise for a line that is too long to be a header."""
        if len(text) > _HEADER and b"\r" not in text:
            raise self.unnamed(f"the header has more than {_HEADER} bytes; shorten it")
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
            problem = "a FASTA record in a FASTQ file; put them into two files"
        else:
            problem = "expected '@'; a record must have four lines (`seqtk seq` rewrites others)"
        raise self.unnamed(problem)

    def begin(self, header: bytes) -> Contig:
        if b"\r" in header[:-1]:
            raise self.carriage_returns()
        words = header.split(None, 1)
        if not words or header[:1].isspace():
            raise self.unnamed("no id; give the record a name")
        try:
            name = words[0].decode()
        except UnicodeDecodeError:
            raise self.unnamed("the id is not UTF-8; rename the record") from None
        if not name.isprintable():
            raise self.unnamed("unprintable letters in the id; rename the record")
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
            at = self.contig.length + bases.index(illegal[:1]) + 1
            hint = "allowed are A C G T U and the IUPAC codes RYSWKMBDHVN"
            if illegal[0] in _AMINO_ACIDS_ONLY:
                hint = "this looks like protein; nucleotides are needed"
            elif illegal[0] in _FASTQ_ONLY and at > 1:
                hint = "this looks like a FASTQ record in a FASTA file; put them into two files"
            raise self.error(f"illegal letter {letter!r} at base {at}; {hint}", self.contig)
        self.contig.append(bases)

    def finished(self, contig: Contig) -> Contig:
        if contig.length == 0:
            raise self.error("empty sequence; remove the record", contig)
        return contig

    def finished_read(self, contig: Contig, qualities: int) -> Contig:
        if qualities != contig.length:
            raise self.error(
                f"{qualities} qualities for {contig.length} bases; copy or download the file again "
                "(a record must have four lines)", contig
            )  # fmt: skip
        return self.finished(contig)


def _pieces(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield lines, or parts of long ones; the flag tells whether the line ends there."""
    last = b""
    for block in blocks:
        *lines, last = block.split(b"\n")
        for line in lines:
            yield line, True
        if last:
            yield last, False
    if last:
        yield b"", True
