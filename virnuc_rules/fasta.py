"""Reading FASTA: every contig once, in order, in little memory; errors name the record."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from virnuc_rules.errors import InputError

IUPAC = b"ACGTURYSWKMBDHVNacgturyswkmbdhvn"
_AMINO_ACIDS_ONLY = b"EFILPQZXJO*efilpqzxjo"
_BLOCK = 1 << 20  # bytes read at a time
_SPILL = 1 << 25  # a contig beyond this many bases is kept on disk, not in memory


class Contig:
    """One contig: its id and its bases as they stand in the file, without line breaks."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number  # 0-based place in the file
        self.id = name
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


def read_contigs(path: Path, sample: str) -> Iterator[Contig]:
    """Yield the contigs of a FASTA file, plain or gzip.

    A contig is checked before it is given out, and the caller uses it before the next is asked
    for. Raises InputError with one line (sample, file, record, fix) for a missing, empty or
    truncated file, a record without id or sequence, an id used twice, or a letter that is no
    nucleotide.
    """
    with _Reader(path, sample) as reader:
        yield from reader.contigs()


class _Reader:
    """The state of reading one file: which record we are in, for the error messages."""

    def __init__(self, path: Path, sample: str) -> None:
        self.path, self.sample = path, sample
        self.seen: set[str] = set()
        self.contig: Contig | None = None
        try:
            self.handle = _open(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise self.error(
                f"cannot be read ({reason}); check the path in the sample sheet"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.handle.close()

    def error(self, problem: str, contig: Contig | None = None) -> InputError:
        record = f' record {contig.number + 1} ("{contig.id}"):' if contig else ""
        return InputError(f"sample {self.sample}: {self.path}:{record} {problem}")

    def contigs(self) -> Iterator[Contig]:
        for text in self.lines():
            first, *records = text.split(b"\n>")
            self.extend(first)
            for record in records:
                if self.contig is not None:
                    yield self.finished(self.contig)
                header, _, bases = record.partition(b"\n")
                self.contig = self.begin(header)
                self.extend(bases)
        if self.contig is None:
            raise self.error("the file is empty; expected FASTA records")
        yield self.finished(self.contig)

    def lines(self) -> Iterator[bytes]:
        """Yield the text in large pieces that never split a header line.

        Every piece but the rest of a long sequence line begins with the newline before it (one is
        put before the first line), so that "\\n>" always means: a new record.
        """
        rest = b"\n"
        while block := self.read():
            text = rest + block
            cut = text.rfind(b"\n")
            if cut > 0:
                yield text[:cut]
                rest = text[cut:]
            elif cut < 0 or text[1:2] not in (b"", b">"):  # inside a very long sequence line
                yield text
                rest = b""
            else:  # a header line that is not complete yet
                rest = text
        if rest.strip():
            yield rest

    def read(self) -> bytes:
        try:
            return self.handle.read(_BLOCK)
        except EOFError:
            problem = "the gzip file is truncated; copy or download it again"
        except (OSError, zlib.error) as error:
            problem = f"cannot be read to its end ({error}); copy or download it again"
        raise self.error(problem, self.contig)

    def begin(self, header: bytes) -> Contig:
        number = self.contig.number + 1 if self.contig else 0
        words = header.split(None, 1)
        if not words or header[:1].isspace():
            raise self.error(f"record {number + 1}: no id after '>'; give the record a name")
        try:
            name = words[0].decode()
        except UnicodeDecodeError:
            raise self.error(
                f"record {number + 1}: the id is not UTF-8; rename the record"
            ) from None
        if not name.isprintable():
            raise self.error(f"record {number + 1}: unprintable letters in the id; rename it")
        contig = Contig(number, name)
        if name in self.seen:
            raise self.error("this id is used twice; make ids unique", contig)
        self.seen.add(name)
        return contig

    def extend(self, text: bytes) -> None:
        bases = text.replace(b"\n", b"")
        if b"\r" in bases or b" " in bases or b"\t" in bases:
            bases = bases.translate(None, b"\r \t")
        if not bases:
            return
        if self.contig is None:
            kind = "FASTQ; convert it first" if bases[:1] == b"@" else "no '>' before the sequence"
            raise self.error(f"this is not FASTA ({kind})")
        if illegal := bases.translate(None, IUPAC):
            letter = illegal[:1].decode("latin-1")
            at = self.contig.length + bases.index(illegal[:1]) + 1
            hint = (
                "this looks like protein; nucleotides are needed"
                if illegal[0] in _AMINO_ACIDS_ONLY
                else "allowed are A C G T U and the IUPAC codes RYSWKMBDHVN"
            )
            raise self.error(f"illegal letter {letter!r} at base {at}; {hint}", self.contig)
        self.contig.append(bases)

    def finished(self, contig: Contig) -> Contig:
        if contig.length == 0:
            raise self.error("empty sequence; remove the record", contig)
        return contig


def _open(path: Path) -> IO[bytes]:
    """Open plain or gzip by its first bytes, whatever the file is called."""
    handle = path.open("rb")  # once only: a pipe cannot be opened again
    if handle.peek(2)[:2] != b"\x1f\x8b":
        return handle
    return gzip.GzipFile(fileobj=handle)  # type: ignore[return-value]
