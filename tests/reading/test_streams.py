"""Opening files: every compression by its bytes, and nothing left out of a damaged one."""

import errno
import hashlib
import io
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from packing import PACK, PACKED, gz, zstd

from virnuc_rules.errors import InputError, UnreadableInput
from virnuc_rules.reading import streams
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.reading.streams import Source, size_on_disk

TEXT = b"".join(
    b">contig_%d\n%b\n" % (number, "".join(random.Random(number).choices("ACGT", k=500)).encode())
    for number in range(40)
)
SKIPPABLE = b"\x50*M\x18" + (5).to_bytes(4, "little") + b"pzstd"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "reads.fa.gz"  # the name says nothing
    path.write_bytes(content)
    return path


def read(path: Path, size: int = 1 << 20) -> bytes:
    source = Source(path, lambda _: None)
    try:
        blocks = list(source.blocks(size))
    finally:
        source.close()
    assert all(0 < len(block) <= size for block in blocks)
    return b"".join(blocks)


def is_refused(path: Path) -> bool:
    """Whether the file gives one clear line when it is read as sequences."""
    try:
        found = [contig.id for contig in Sequences([path], "lake").contigs()]
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1
        assert message.startswith(f"sample lake: {path}: ")
        return True
    assert found
    return False


@pytest.mark.parametrize("kind", PACK)
def test_the_text_comes_back(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, PACK[kind](TEXT))
    assert [read(path, size) == TEXT for size in (1, 100, 1 << 20)] == [True] * 3


@pytest.mark.parametrize("kind", PACK)
def test_several_members_as_bgzip_and_cat_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    parts = (TEXT[:7], TEXT[7:3000], b"", TEXT[3000:], b"")
    path = write(tmp_path, b"".join(map(PACK[kind], parts)))
    for buffer in (6, 64, 1 << 18):
        monkeypatch.setattr(streams, "_BUFFER", buffer)
        assert read(path) == TEXT


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_zeros_between_and_after_streams_are_padding(tmp_path: Path, kind: str) -> None:
    first, second = PACK[kind](TEXT[:90]), PACK[kind](TEXT[90:])
    zeros = bytes(1_000_000)  # more than is read at a time
    assert read(write(tmp_path, first + zeros + second + zeros)) == TEXT


def test_what_pzstd_puts_before_frames_is_skipped(tmp_path: Path) -> None:
    packed = SKIPPABLE + zstd(TEXT[:99]) + SKIPPABLE + zstd(TEXT[99:])
    assert read(write(tmp_path, packed)) == TEXT


@pytest.mark.parametrize("kind", PACKED)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    """In its first member, or in the second."""
    whole = PACK[kind](TEXT)
    for before in (b"", whole):
        for end in [1, 2, 3, 5, 6, 10, *range(20, len(whole), 97), len(whole) - 1]:
            path = write(tmp_path, before + whole[:end])
            if end < 6 and not before:
                assert is_refused(path)
                continue
            with pytest.raises(OSError, match=r"\w"):
                read(path)


@pytest.mark.parametrize("kind", PACKED)
def test_what_comes_after_the_end_is_never_left_out(tmp_path: Path, kind: str) -> None:
    for junk in (b"more", b">a\nACGT\n", b"\n"):
        assert is_refused(write(tmp_path, PACK[kind](TEXT) + junk)), junk


@pytest.mark.parametrize("kind", PACKED)
def test_two_compressions_in_one_file_are_refused(tmp_path: Path, kind: str) -> None:
    for other in PACKED:
        if other != kind:
            assert is_refused(write(tmp_path, PACK[kind](TEXT) + PACK[other](b">z\nACGT\n")))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path, kind: str) -> None:
    """One bit in every 97th byte after the header: an error each time, and no other kind."""
    whole = PACK[kind](TEXT)
    for place in range(10, len(whole), 97):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        assert is_refused(write(tmp_path, bytes(broken)))


def test_a_truncated_file_names_the_record_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virnuc_rules.reading.fastx._BLOCK", 100)
    whole = gz(TEXT)
    path = write(tmp_path, whole[: len(whole) // 2])
    with pytest.raises(InputError) as raised:
        list(Sequences([path], "lake").contigs())
    message = str(raised.value).removeprefix(f"sample lake: {path}: ")
    assert re.match(r'record (1\d|20) \("contig_1\d"\): cannot be read to its end \(', message)
    assert message.endswith("; copy or download it again")


@pytest.mark.parametrize("kind", PACK)
def test_the_hash_and_the_count_are_of_the_file_on_disk(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, PACK[kind](TEXT) * 2)
    counted: list[int] = []
    source = Source(path, counted.append)
    for _ in source.blocks(1000):
        pass
    source.close()
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(counted) == path.stat().st_size == size_on_disk([path])


@pytest.mark.parametrize("kind", PACK)
def test_a_pipe_that_gives_a_byte_at_a_time(kind: str) -> None:
    """As in `virnuc-rules chunk <(ssh there cat reads.fa.xz)`."""
    reader, writer = os.pipe()
    text = TEXT[:600]

    def trickle() -> None:
        with io.FileIO(writer, "w") as out:
            for byte in PACK[kind](text):
                out.write(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    path = Path(f"/dev/fd/{reader}")
    assert read(path) == text
    thread.join()
    assert size_on_disk([path]) is None
    os.close(reader)


def test_standard_input_and_missing_files_have_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, TEXT)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").touch()  # which is not what is meant
    assert size_on_disk([path, path]) == 2 * len(TEXT)
    assert size_on_disk([path, Path("-")]) is None
    assert size_on_disk([path, tmp_path / "absent.fa"]) is None


# --- what is wrong: the content, or the reading ---------------------------------------------------


def failure(path: Path) -> InputError:
    with pytest.raises(InputError) as raised:
        list(Sequences([path], "lake").contigs())
    message = str(raised.value)
    assert message.startswith(f"sample lake: {path}: ") and message.isprintable()
    return raised.value


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("kind", PACK)
def test_a_disk_that_fails_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    monkeypatch.setattr(streams, "_BUFFER", 64)
    path = write(tmp_path, PACK[kind](TEXT))
    readinto = streams._Tap.readinto

    def failing(tap: streams._Tap, buffer: Any) -> int:
        if tap.file.tell() > 500:
            raise OSError(number, os.strerror(number))
        return readinto(tap, buffer)

    monkeypatch.setattr(streams._Tap, "readinto", failing)
    error = failure(path)
    assert type(error) is UnreadableInput
    assert os.strerror(number) in str(error) and "run again" in str(error)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_file_that_cannot_be_opened_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(_: object) -> io.FileIO:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(io, "FileIO", failing)
    error = failure(write(tmp_path, TEXT))
    assert type(error) is UnreadableInput
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("kind", PACKED)
def test_a_missing_and_a_damaged_file_will_not_get_better(tmp_path: Path, kind: str) -> None:
    assert type(failure(tmp_path / "absent.fa")) is InputError
    assert type(failure(write(tmp_path, PACK[kind](TEXT)[:-9]))) is InputError
    assert type(failure(write(tmp_path, PACK[kind](TEXT) + b"junk"))) is InputError
    assert type(failure(write(tmp_path, b">a\n!\n"))) is InputError


MEASURE = """
import sys
from pathlib import Path
from typing import Any
from virnuc_rules.reading.streams import Source
size = sum(map(len, Source(Path(sys.argv[1]), lambda _: None).blocks(1 << 20)))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(size, int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", PACKED)
def test_a_file_that_grows_a_thousandfold_stays_out_of_memory(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, PACK[kind](b">a\n" + b"N" * 200_000_000))
    command = [sys.executable, "-c", MEASURE, str(path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    size, peak = map(int, run.stdout.split())
    assert size == 200_000_003
    assert peak < 200
