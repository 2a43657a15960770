"""Reading FASTA: good files as Biopython reads them, bad ones with one line that says where."""

import gzip
import os
import random
from pathlib import Path

import pytest
from Bio import SeqIO
from harness import files_of_at_most
from hypothesis import example, given, settings
from hypothesis import strategies as st

from virnuc_rules.errors import InputError, VirnucError
from virnuc_rules.reading import fastx as sequences
from virnuc_rules.reading.fastx import Contig, Sequences

IUPAC = "ACGTURYSWKMBDHVNacgturyswkmbdhvn"
BLOCKS = (1, 2, 3, 5, 8, 13, 1 << 20)  # bytes read at a time: each place for a cut
Records = list[tuple[str, str]]


def read(path: Path) -> Records:
    """All records as (id, bases); each contig is used before the next one is asked for."""
    records = []
    for number, contig in enumerate(Sequences([path], "lake").contigs()):
        assert contig.index == number
        records.append((contig.id, contig.bases(0, contig.length).decode()))
    return records


def error(path: Path) -> str:
    """The one line that reading this file gives."""
    with pytest.raises(InputError) as raised:
        read(path)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"sample lake: {path}: ")
    assert message.isprintable()
    return message.removeprefix(f"sample lake: {path}: ")


def write(folder: Path, content: bytes, name: str = "reads.fa") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def some_bases(number: int) -> bytes:
    return "".join(random.Random(number).choices("ACGT", k=number)).encode()


# --- files that cannot be used ---------------------------------------------------------------

NO_ID = "no id; give the record a name"
NEITHER = "this is neither FASTA nor FASTQ: it begins with {}, not with '>' or '@'"
MAC = "the lines end in single carriage returns, as on old Macs; convert them: "
MIXED = "this looks like a FASTQ record in a FASTA file; put them into two files"
ALPHABET = "allowed are A C G T U and the IUPAC codes RYSWKMBDHVN"
PROTEIN = "this looks like protein; nucleotides are needed"

UTF_16 = "this is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"
TEXT = ">a\nACGT\n"

BAD_CONTENT = {
    "UTF-16": (TEXT.encode("utf-16"), UTF_16),
    "UTF-16 LE without a mark": (TEXT.encode("utf-16-le"), UTF_16),
    "UTF-16 BE without a mark": (TEXT.encode("utf-16-be"), UTF_16),
    "an id that is too long": (
        b">a\nACGT\n>" + b"x" * 2000 + b"\nACGT\n",
        "record 2: the id has 2000 bytes, more than 1024; shorten it",
    ),
    "a masked base as X": (
        b">a\nACGXT\n",
        f"record 1 (\"a\"): illegal letter 'X' at base 4; {PROTEIN}",
    ),
    "no id": (b">\nACGT\n", f"record 1: {NO_ID}"),
    "no id at the very end": (b">a\nACGT\n>", f"record 2: {NO_ID}"),
    "a blank before the id": (b">a\nACGT\n> b\nACGT\n", f"record 2: {NO_ID}"),
    "an id twice": (
        b">a\nACGT\n>b\nACGT\n>a x\nACGT\n",
        'record 3 ("a"): this id is used twice in the sample; make ids unique, or set '
        "`duplicate_ids: keep` (the reads of a pair have one id in both files)",
    ),
    "a gap": (b">a\nACGT\nAC-T\n", f"record 1 (\"a\"): illegal letter '-' at base 7; {ALPHABET}"),
    "the first base": (
        b">a\n!CGT\n",
        f"record 1 (\"a\"): illegal letter '!' at base 1; {ALPHABET}",
    ),
    "two illegal letters": (
        b">a\nAC?T!\n",
        f"record 1 (\"a\"): illegal letter '?' at base 3; {ALPHABET}",
    ),
    "a letter with an accent": (
        ">a\nACé\n".encode("latin-1"),
        f"record 1 (\"a\"): illegal letter 'é' at base 3; {ALPHABET}",
    ),
    "'>' inside a sequence": (
        b">a\nACGT>b\nACGT\n",
        f"record 1 (\"a\"): illegal letter '>' at base 5; {ALPHABET}",
    ),
    "blanks do not count as bases": (
        b">a\nAC GT\r\n\n\tAC_\n",
        f"record 1 (\"a\"): illegal letter '_' at base 7; {ALPHABET}",
    ),
    "protein": (
        b">a\nMKVTALWQ*\n",
        f"record 1 (\"a\"): illegal letter 'L' at base 6; {PROTEIN}",
    ),
    "FASTQ after FASTA": (
        b">a\nACGT\n@r1\nACGT\n+\nIIII\n",
        f"record 1 (\"a\"): illegal letter '@' at base 5; {MIXED}",
    ),
    "old Mac": (b">a\rACGT\r>b\rACGT\r", MAC + "tr '\\r' '\\n' < OLD > NEW"),
    "no '>'": (b"ACGT\nACGT\n", NEITHER.format("'A'")),
    "gzip in gzip": (gzip.compress(gzip.compress(b">a\nA\n")), NEITHER.format("'\\x1f'")),
    "an id that is not UTF-8": (
        b">a\nACGT\n>\xff\xfe\nACGT\n",
        "record 2: the id is not UTF-8; rename the record",
    ),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_bad_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, expected = BAD_CONTENT[case]
    for block in BLOCKS:
        monkeypatch.setattr(sequences, "_BLOCK", block)
        assert error(write(tmp_path, content)) == expected


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", gzip.compress(b"")], ids=["nothing", "blank lines", "gzip"]
)
def test_an_empty_file_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = write(tmp_path, content)
    assert read(path) == []
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"sample lake: {path}: the file is empty: it has no contigs")
    ]


def test_the_place_of_an_illegal_letter_in_a_spilled_contig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "_BLOCK", 11)
    monkeypatch.setattr(sequences, "_SPILL", 20)
    path = write(tmp_path, b">ok\n" + some_bases(100) + b"\n>bad\n" + b"ACGTACG\n" * 50 + b"AC?\n")
    assert error(path).startswith("record 2 (\"bad\"): illegal letter '?' at base 353; ")


def test_a_missing_file(tmp_path: Path) -> None:
    expected = "cannot be read (No such file or directory); check the path in the sample sheet"
    assert error(tmp_path / "absent.fa") == expected


def test_a_directory(tmp_path: Path) -> None:
    expected = "cannot be read (Is a directory); check the path in the sample sheet"
    assert error(tmp_path) == expected


def test_the_records_before_a_bad_one_are_given_out(tmp_path: Path) -> None:
    contigs = Sequences([write(tmp_path, b">a\nACGT\n>b\nAC\n>b\nAC\n")], "lake").contigs()
    assert [next(contigs).id, next(contigs).id] == ["a", "b"]
    with pytest.raises(InputError):
        next(contigs)


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\x85b", "a\u2028b", "a\x1cb", "a\x00"])
def test_an_id_that_cannot_be_printed_is_refused(tmp_path: Path, name: str) -> None:
    """It would go to the terminal, the tables and the report, and break lines there."""
    error(write(tmp_path, f">{name}\nACGT\n".encode()))


def test_a_pipe_is_read_from_its_beginning() -> None:
    """As in `virnuc-rules chunk <(zcat reads.fa.gz)`."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b">a\nACGT\n>b\nAC\n")
        os.close(writer)
        assert read(Path(f"/dev/fd/{reader}")) == [("a", "ACGT"), ("b", "AC")]
    finally:
        os.close(reader)


# --- files that can ---------------------------------------------------------------------------

ODD_IDS = [
    "gi|9626372|ref|NC_001422.1|",
    "a,b;c",
    "x_chunk_1",
    "x_chunk_1F1",
    "k141_7/1",
    "<script>alert(1)</script>",
    "Größe_ß",
    "病毒",
    '"quoted"',
    "a>b",
    ">a",
    "=1+1",
    "%s{0}",
    "-",
]
GOOD_CONTENT: dict[str, tuple[bytes, Records]] = {
    "no bytes": (b"", []),
    "blank lines only": (b"\n \t\r\n\n", []),
    "empty record at first": (b">a\n>b\nACGT\n", [("a", ""), ("b", "ACGT")]),
    "empty records in the middle": (
        b">a\nACGT\n>b\n>c x\n>d\nA\n",
        [("a", "ACGT"), ("b", ""), ("c", ""), ("d", "A")],
    ),
    "empty record at the end": (b">a\nACGT\n>b", [("a", "ACGT"), ("b", "")]),
    "a record of blank lines": (b">a\n\n \t\r\n\n>b\nA\n", [("a", ""), ("b", "A")]),
    "several lines": (b">a\nACGT\nAC\nG\n>b\nT\n", [("a", "ACGTACG"), ("b", "T")]),
    "a byte order mark": (b"\xef\xbb\xbf>a\nACGT\n", [("a", "ACGT")]),
    "a byte order mark before a short file": (b"\xef\xbb\xbf>a", [("a", "")]),
    "the longest id": (b">" + b"x" * 1024 + b" y\nA\n", [("x" * 1024, "A")]),
    "CRLF": (b">a b\r\nACGT\r\nAC\r\n\r\n>c\r\nT\r\n", [("a", "ACGTAC"), ("c", "T")]),
    "lower case is kept": (b">a\nacGTnN\n", [("a", "acGTnN")]),
    "every letter": (b">a\n" + IUPAC.encode() + b"\n", [("a", IUPAC)]),
    "blank lines": (b"\n\n>a\n\nAC\n\nGT\n\n\n>b\nA\n\n", [("a", "ACGT"), ("b", "A")]),
    "blanks in and after lines": (b">a\nAC GT \n\tAC\t\n", [("a", "ACGTAC")]),
    "no newline at the end": (b">a\nACGT\n>b\nAC", [("a", "ACGT"), ("b", "AC")]),
    "a description after a tab": (b">a\tthe rest >x\nACGT\n", [("a", "ACGT")]),
    "'>' inside a description": (b">a one > two >three\nAC\n", [("a", "AC")]),
    "blanks after the id": (b">a  \t\nAC\n>b \r\nAC\n", [("a", "AC"), ("b", "AC")]),
    "a description that is not UTF-8": (b">a \xff\xfe\nAC\n", [("a", "AC")]),
    "ids that differ in case": (b">a\nAC\n>A\nAC\n", [("a", "AC"), ("A", "AC")]),
    "odd ids": (
        "".join(f">{name} {name}\nACGT\n" for name in ODD_IDS).encode(),
        [(name, "ACGT") for name in ODD_IDS],
    ),
}


@pytest.mark.parametrize("case", GOOD_CONTENT)
def test_good_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, expected = GOOD_CONTENT[case]
    for block in BLOCKS:
        monkeypatch.setattr(sequences, "_BLOCK", block)
        assert read(write(tmp_path, content)) == expected


def biopython(path: Path) -> Records:
    return [(record.id, str(record.seq)) for record in SeqIO.parse(path, "fasta")]


@st.composite
def fasta_texts(draw: st.DrawFn) -> bytes:
    """A FASTA file: odd ids, descriptions, lines of any length, blank lines, LF or CRLF."""
    names = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1)
    ids = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = st.lists(st.text(IUPAC, max_size=30))
    descriptions = st.sampled_from(["", " x", " a >b", "\tc", " " + "long " * 20])
    text = ""
    for name in ids:
        text += newline.join([f">{name}{draw(descriptions)}", *draw(lines), ""])
    return (text if draw(st.booleans()) else text.removesuffix(newline)).encode()


@given(fasta_texts(), st.integers(1, 50), st.sampled_from([0, 5, 20, 1 << 25]), st.booleans())
@example(b">a\nACGT\n>b\nA", 4, 1 << 25, False)
@settings(deadline=None, max_examples=150)
def test_the_records_are_those_of_biopython(
    one_folder: Path, text: bytes, block: int, spill: int, packed: bool
) -> None:
    plain = write(one_folder, text)
    path = write(one_folder, gzip.compress(text), "reads.fa.gz") if packed else plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_BLOCK", block)
        patch.setattr(sequences, "_SPILL", spill)
        assert read(path) == biopython(plain)


@given(st.binary(max_size=60), st.integers(1, 20))
@example(b"\x1f\x8b", 1)
@example(b"\xef\xbb\xbf>a\nACGT\n", 5)
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(one_folder: Path, content: bytes, block: int) -> None:
    path = write(one_folder, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_BLOCK", block)
        try:
            records = read(path)
        except InputError as refused:
            assert str(refused).startswith(f"sample lake: {path}: ")
        else:
            assert all(name for name, _ in records)


@given(
    st.lists(st.text("ACGTN", min_size=1, max_size=30), min_size=1, max_size=5),
    st.integers(0, 60),
    st.data(),
)
@settings(deadline=None)
def test_a_contig_gives_any_stretch(parts: list[str], spill: int, data: st.DataObject) -> None:
    whole = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_SPILL", spill)
        contig = Contig("a")
        for part in parts:
            contig.append(part.encode())
    assert contig.length == len(whole)
    place = st.integers(0, len(whole))
    for start, end in map(sorted, data.draw(st.lists(st.tuples(place, place), max_size=5))):
        assert contig.bases(start, end).decode() == whole[start:end]


@pytest.fixture(scope="session")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that read hundreds of files, one after the other."""
    return tmp_path_factory.mktemp("fasta")


def test_a_spilled_contig_is_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "_BLOCK", 50)
    monkeypatch.setattr(sequences, "_SPILL", 100)
    bases = some_bases(1000)
    lines = b"\n".join(bases[at : at + 60] for at in range(0, len(bases), 60))
    path = write(tmp_path, b">short\nACGT\n>long\n" + lines + b"\n")
    kept = {}
    for contig in Sequences([path], "lake").contigs():
        kept[contig.id] = 0 if contig._file._rolled else contig.length
        assert contig.bases(0, contig.length) in (b"ACGT", bases)
    assert kept == {"short": 4, "long": 0}


def test_no_room_for_a_long_contig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of temporary files is named, and it is no fault of the input."""
    monkeypatch.setattr(sequences, "_BLOCK", 5000)
    monkeypatch.setattr(sequences, "_SPILL", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = write(tmp_path, b">long\n" + some_bases(50_000) + b"\n")
    with pytest.raises(VirnucError) as raised, files_of_at_most(20_000):
        list(Sequences([path], "lake").contigs())
    assert not isinstance(raised.value, InputError)
    assert str(raised.value) == (
        f"{tmp_path}: cannot hold a long contig (File too large); make room there, or set TMPDIR "
        "to another folder"
    )


def test_no_room_for_the_last_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written when the contig is read."""
    monkeypatch.setattr(sequences, "_SPILL", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    contig = Contig("long")
    for size in (200, 700):
        contig.append(some_bases(size))
    with pytest.raises(VirnucError, match="cannot hold a long contig"), files_of_at_most(500):
        contig.bases(0, 900)
