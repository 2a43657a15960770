"""Reading FASTQ, several files, and standard input: as Biopython, or one line that says where."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from Bio import SeqIO
from chunk_folders import manifest_of
from harness import BIN, without_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import PACK

from virnuc_rules.errors import InputError
from virnuc_rules.reading import fastx as sequences
from virnuc_rules.reading import streams
from virnuc_rules.reading.fastx import Contig, Sequences

READS = b"@r1 1:N:0\nACGT\n+\nII@>\n@r2\nacgtn\n+r2\n@+@+@\n"
BLOCKS = (1, 2, 3, 7, 1 << 20)  # bytes read at a time
FOUR = "a record must have four lines"


def read(*paths: Path, **options: bool) -> list[tuple[str, str]]:
    found = Sequences(paths, "lake", **options).contigs()
    return [(contig.id, contig.bases(0, contig.length).decode()) for contig in found]


def error(*paths: Path) -> str:
    with pytest.raises(InputError) as raised:
        read(*paths)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("sample lake: ")
    return message.removeprefix("sample lake: ")


def write(folder: Path, content: bytes, name: str = "reads.fq") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


GOOD = {
    "two reads": READS,
    "a byte order mark": b"\xef\xbb\xbf" + READS,
    "no newline at the end": READS[:-1],
    "CRLF": READS.replace(b"\n", b"\r\n"),
    "CRLF without the last": READS.replace(b"\n", b"\r\n")[:-2],
    "blank lines between": b"\n\n" + READS.replace(b"@r2\n", b"\n \n@r2\n") + b"\n\n",
}


@pytest.mark.parametrize("case", GOOD)
def test_good_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    for block in BLOCKS:
        monkeypatch.setattr(sequences, "_BLOCK", block)
        assert read(write(tmp_path, GOOD[case])) == [("r1", "ACGT"), ("r2", "acgtn")]


ENDS = "the file ends in the middle of this record; copy or download it again"
THIRD = f"the third line does not begin with '+'; {FOUR}, with the sequence in one"
REWRITE = "(`seqtk seq` rewrites others)"
AGAIN = f"copy or download the file again ({FOUR})"
BAD = {
    "a quality too few": (
        READS.replace(b"II@>", b"II@"),
        f'record 1 ("r1"): 3 qualities for 4 bases; {AGAIN}',
    ),
    "a quality too many": (
        READS.replace(b"II@>", b"II@>>"),
        f'record 1 ("r1"): 5 qualities for 4 bases; {AGAIN}',
    ),
    "ends after the id": (READS + b"@r3", f'record 3 ("r3"): {ENDS}'),
    "ends after the bases": (READS + b"@r3\nAC\n", f'record 3 ("r3"): {ENDS}'),
    "ends after the plus": (READS + b"@r3\nAC\n+\n", f'record 3 ("r3"): {ENDS}'),
    "ends in the qualities": (
        READS + b"@r3\nACGT\n+\nI",
        f'record 3 ("r3"): 1 qualities for 4 bases; {AGAIN}',
    ),
    "a sequence of two lines": (
        b"@r1\nACGT\nAC\n+\nIIIIII\n",
        f'record 1 ("r1"): {THIRD} {REWRITE}',
    ),
    "qualities of two lines": (
        b"@r1\nACGT\n+\nIIII\nII\n",
        f"record 2: expected '@'; {FOUR} {REWRITE}",
    ),
    "FASTA after FASTQ": (
        READS + b">c\nACGT\n",
        "record 3: a FASTA record in a FASTQ file; put them into two files",
    ),
    "no id": (READS + b"@\nA\n+\nI\n", "record 3: no id; give the record a name"),
    "an id that is not UTF-8": (
        b"@\xff\nA\n+\nI\n",
        "record 1: the id is not UTF-8; rename the record",
    ),
    "an illegal letter": (
        b"@r1\nAC.T\n+\nIIII\n",
        "record 1 (\"r1\"): illegal letter '.' at base 3; allowed are A C G T U and the IUPAC "
        "codes RYSWKMBDHVN",
    ),
    "old Mac": (
        READS.replace(b"\n", b"\r"),
        "the lines end in single carriage returns, as on old Macs; convert them: "
        "tr '\\r' '\\n' < OLD > NEW",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, expected = BAD[case]
    path = write(tmp_path, content)
    for block in BLOCKS:
        monkeypatch.setattr(sequences, "_BLOCK", block)
        assert error(path) == f"{path}: {expected}"


def test_reads_without_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, b"@a\n\n+\n\n@b\nAC\n+\nII\n@c\n\n+\n\n")
    for block in BLOCKS:
        monkeypatch.setattr(sequences, "_BLOCK", block)
        assert read(path) == [("a", ""), ("b", "AC"), ("c", "")]


@pytest.mark.parametrize("mark", [b">", b"@"])
def test_a_header_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: bytes) -> None:
    """It is refused as soon as it is too long, not when all memory is used."""
    monkeypatch.setattr(sequences, "_HEADER", 100)
    monkeypatch.setattr(sequences, "_BLOCK", 10)
    monkeypatch.setattr(streams, "_BUFFER", 10)
    for text, problem in (
        (b"x" * 1000, "record 1: the header has more than 100 bytes; shorten it"),
        (b"x\rACGT" * 100, "the lines end in single carriage returns, as on old Macs; "),
    ):
        path, counted = write(tmp_path, mark + text), []
        with pytest.raises(InputError) as raised:
            list(Sequences([path], "lake", advance=counted.append).contigs())
        assert str(raised.value).startswith(f"sample lake: {path}: {problem}")
        assert sum(counted) < 150


def test_a_read_of_any_length_is_taken_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "_BLOCK", 50)
    monkeypatch.setattr(sequences, "_SPILL", 100)
    path = write(tmp_path, b"@long\n" + b"ACGTT" * 300 + b"\n+\n" + b"@I>+\\" * 300 + b"\n" + READS)
    kept = {}
    for contig in Sequences([path], "lake").contigs():
        kept[contig.id] = 0 if contig._file._rolled else contig.length
        assert contig.id != "long" or contig.bases(0, contig.length) == b"ACGTT" * 300
    assert kept == {"long": 0, "r1": 4, "r2": 5}


@st.composite
def fastq_texts(draw: st.DrawFn) -> bytes:
    """A FASTQ file with qualities that look like other lines, LF or CRLF."""
    names = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1)
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text = ""
    for name in draw(st.lists(names, min_size=1, max_size=6, unique=True)):
        bases = draw(st.text("ACGTNacgtRYSWKMBDHV", max_size=40))
        size = len(bases)
        qualities = draw(st.text("@+>I!~ACGT", min_size=size, max_size=size))
        description = draw(st.sampled_from(["", " 1:N:0:1", "\tx @y", " >z"]))
        text += newline.join([f"@{name}{description}", bases, "+", qualities, ""])
    whole = not bases or draw(st.booleans())  # an empty line of qualities needs its end
    return (text if whole else text.removesuffix(newline)).encode()


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fastq")


@given(fastq_texts(), st.integers(1, 50), st.sampled_from(list(PACK)))
@settings(deadline=None, max_examples=100)
def test_the_reads_are_those_of_biopython(
    one_folder: Path, text: bytes, block: int, kind: str
) -> None:
    plain = write(one_folder, text)
    path = write(one_folder, PACK[kind](text), "reads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_BLOCK", block)
        expected = [(record.id, str(record.seq)) for record in SeqIO.parse(plain, "fastq")]
        assert read(path) == expected


# --- several files -----------------------------------------------------------------------------


def test_files_of_any_kind_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, PACK["xz"](b">a\nACGT\n>b\nAC\n"), "one"),
        write(tmp_path, READS, "two"),
        write(tmp_path, PACK["zst"](b">c\nGG"), "three"),
    ]
    found: list[Contig] = list(Sequences(paths, "lake").contigs())
    assert [(c.id, c.index, c.source, c.record) for c in found] == [
        ("a", 0, 0, 0),
        ("b", 1, 0, 1),
        ("r1", 2, 1, 0),
        ("r2", 3, 1, 1),
        ("c", 4, 2, 0),
    ]


def test_an_error_names_the_file_and_its_own_record(tmp_path: Path) -> None:
    first = write(tmp_path, b">a\nA\n>b\nA\n", "one.fa")
    second = write(tmp_path, b">c\nA\n>d\n?\n", "two.fa")
    assert error(first, second).startswith(f'{second}: record 2 ("d"): illegal letter')


def test_the_reads_of_pairs_have_the_same_ids(tmp_path: Path) -> None:
    forward, reverse = write(tmp_path, READS, "R1.fq"), write(tmp_path, READS, "R2.fq")
    message = error(forward, reverse)
    assert message.startswith(f'{reverse}: record 1 ("r1"): this id is used twice in the sample; ')
    assert "`duplicate_ids: keep`" in message
    assert read(forward, reverse, keep_duplicates=True) == 2 * read(forward)


# --- the command ----------------------------------------------------------------------------------


def chunk(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [str(BIN / "virnuc-rules"), "chunk", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
    done.stderr = without_settings(done.stderr.decode()).encode()
    return done


def test_standard_input(tmp_path: Path) -> None:
    done = chunk("-", "--out", tmp_path / "out", stdin=PACK["gz"](READS))
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        b"stdin: 1 files, 2 contigs, 9 bases, 2 windows, 8 open frames in 1 chunks\n"
    )
    manifest = manifest_of(tmp_path / "out")
    assert manifest.sources_sha256 == [hashlib.sha256(PACK["gz"](READS)).hexdigest()]
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    done = chunk("-", "--out", tmp_path / "out", stdin=READS[:-8])
    assert done.returncode == 1
    assert done.stderr.startswith(b'error: sample stdin: standard input: record 2 ("r2"): ')
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_several_files_of_the_command_line(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    paths = [write(tmp_path, READS, "lake.R1.fq"), write(tmp_path, READS, "lake.R2.fq")]
    done = command("chunk", *paths, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: sample lake: {paths[1]}: record 1")
    done = command("chunk", *paths, "--out", tmp_path / "out", "--duplicate-ids", "keep")
    assert done.returncode == 0, done.stderr
    manifest = manifest_of(tmp_path / "out")
    assert manifest.sources_sha256 == [hashlib.sha256(READS).hexdigest()] * 2
    assert manifest.chunking.duplicate_ids == "keep"
