"""Reading a chunk folder: what is damaged or changed is one clear line, never accepted."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chunk_folders import SOURCE, chunk_it, manifest_of
from harness import UNREADABLE, no_more_open_files

from virnuc_rules.chunking.bases import Bases
from virnuc_rules.chunking.format import (
    CONTIG_SCHEMA,
    WINDOW_SCHEMA,
    read_chunk,
    read_columns,
    read_table,
)
from virnuc_rules.chunking.manifest import ChunkEntry, read_manifest
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError, EnvironmentProblem
from virnuc_rules.files import environment


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, ChunkEntry]:
    """The first chunk file, of two, of a small folder, and its entry."""
    manifest = chunk_it(SOURCE, tmp_path / "out", chunk_size=40)
    return tmp_path / "out" / manifest.chunks[0].file, manifest.chunks[0]


def chunk_error(path: Path, entry: ChunkEntry) -> str:
    with pytest.raises(ChunkError) as raised:
        read_chunk(path, entry)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    assert message.endswith("; delete the sample's chunk folder and run again")
    return message


def test_a_missing_chunk_file(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    path.unlink()
    assert "no such file" in chunk_error(path, entry)


@pytest.mark.parametrize("keep", [0, 1, 4, 12, 0.1, 0.5, 0.9, -8, -4, -1])
def test_a_truncated_chunk_file(one: tuple[Path, ChunkEntry], keep: float) -> None:
    path, entry = one
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert "damaged" in chunk_error(path, entry)


def test_something_else_in_place_of_a_chunk_file(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    path.write_bytes(b"PAR1 not quite PAR1")
    assert "damaged" in chunk_error(path, entry)
    path.write_bytes((path.parent / "windows.parquet").read_bytes())
    assert "not a chunk file of this version" in chunk_error(path, entry)
    path.write_bytes((path.parent / "chunk_000001.parquet").read_bytes())
    assert "the content has changed" in chunk_error(path, entry)


def is_refused(path: Path, entry: ChunkEntry, good: list[dict[str, object]]) -> bool:
    """Whether the file gives a ChunkError; it may also be read, but then as what it was."""
    try:
        chunk = read_chunk(path, entry)
    except ChunkError as error:
        assert len(str(error).splitlines()) == 1
        return True
    assert chunk.table.to_pylist() == good
    return False


@pytest.mark.parametrize("bit", [0x01, 0x10])
def test_a_flipped_bit_is_never_accepted(one: tuple[Path, ChunkEntry], bit: int) -> None:
    """Some bytes have no meaning to the reader; a flip there is harmless, and the content right."""
    path, entry = one
    whole = path.read_bytes()
    good = read_chunk(path, entry).table.to_pylist()
    places = range(4, len(whole), 50)
    refused = 0
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= bit
        path.write_bytes(bytes(broken))
        refused += is_refused(path, entry, good)
    assert refused > 0.8 * len(places)


def test_a_flipped_bit_anywhere_in_the_first_pages(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    whole = path.read_bytes()
    good = read_chunk(path, entry).table.to_pylist()
    for place in range(800):
        broken = bytearray(whole)
        broken[place] ^= 0x80
        path.write_bytes(bytes(broken))
        is_refused(path, entry, good)


def test_a_flipped_bit_in_the_names_of_columns(one: tuple[Path, ChunkEntry]) -> None:
    """No text any more: another error than that of other damage."""
    path, entry = one
    whole = path.read_bytes()
    for name in (b"window_row", b"protein"):
        broken = bytearray(whole)
        broken[whole.index(name)] ^= 0x80
        path.write_bytes(bytes(broken))
        chunk_error(path, entry)


def test_a_chunk_that_cannot_be_read_is_not_damaged(
    one: tuple[Path, ChunkEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, entry = one
    monkeypatch.setattr(environment, "_PAUSES", (0, 0))
    tables = ChunkFolder(path.parent)
    with no_more_open_files():
        for file, read in (
            (path, lambda: read_chunk(path, entry)),
            (tables.windows, lambda: list(read_table(tables.windows))),
            (tables.bases, lambda: Bases(tables, 1)),
            (tables.made, lambda: read_manifest(tables)),
        ):
            with pytest.raises(EnvironmentProblem) as raised:
                read()  # type: ignore[no-untyped-call]
            assert str(raised.value) == f"{file}: Too many open files (EMFILE)"
    path.unlink()
    path.symlink_to(UNREADABLE)
    with pytest.raises(EnvironmentProblem, match=f"{path}: Input/output error"):
        read_chunk(path, entry)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in chunk_error(path, entry)  # at once


def rewrite(path: Path, column: str, change: Callable[[list], list]) -> None:
    """Write the chunk file anew with one column changed, as a sound Parquet file."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    field = table.schema.field(column)
    values = pa.array(change(table[column].to_pylist())).cast(field.type)
    pq.write_table(table.set_column(place, field, values), path)


def other_first(values: list[str]) -> list[str]:
    return ["A" + values[0][1:] if values[0][0] != "A" else "C" + values[0][1:], *values[1:]]


@pytest.mark.parametrize("column", ["nucleotide", "protein"])
def test_a_changed_sequence(one: tuple[Path, ChunkEntry], column: str) -> None:
    path, entry = one
    rewrite(path, column, other_first)
    assert "the content has changed" in chunk_error(path, entry)


def test_a_changed_order_or_number(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    table = pq.read_table(path)
    for changed in (table.take([1, 0, *range(2, len(table))]), table.slice(1), table.slice(0, 39)):
        pq.write_table(changed, path)
        assert "the content has changed" in chunk_error(path, entry)


@pytest.mark.parametrize("column", ["window", "contig", "frame"])
def test_a_changed_id(one: tuple[Path, ChunkEntry], column: str) -> None:
    path, entry = one
    rewrite(path, column, lambda values: values[1:] + values[:1])
    assert "the content has changed" in chunk_error(path, entry)


@pytest.mark.parametrize("column", ["window_row", "start", "end"])
def test_a_changed_place(one: tuple[Path, ChunkEntry], column: str) -> None:
    path, entry = one
    rewrite(path, column, lambda values: [value + 1 for value in values])
    chunk_error(path, entry)


def test_the_hash_is_that_of_the_rows(one: tuple[Path, ChunkEntry]) -> None:
    """It names results, so it must not depend on the version of pyarrow."""
    path, entry = one
    chunk = read_chunk(path, entry)
    places = (chunk.table[name].to_pylist() for name in ("window_row", "start", "end"))
    rows = zip(chunk.ids, chunk.nucleotide, chunk.protein, *places, strict=True)
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == entry.sha256


def manifest_error(folder: Path) -> str:
    with pytest.raises(ChunkError) as raised:
        manifest_of(folder)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{folder / 'manifest.json'}: ")
    return message


def test_a_missing_manifest(tmp_path: Path) -> None:
    assert manifest_error(tmp_path).endswith("(No such file or directory); chunk the sample first")
    assert "No such file" in manifest_error(tmp_path / "absent")


def without_windows(text: bytes) -> bytes:
    fields = json.loads(text)
    del fields["windows"]
    return json.dumps(fields).encode()


BROKEN = {
    "empty": lambda text: b"",
    "cut in half": lambda text: text[: len(text) // 2],
    "without its last brace": lambda text: text.rstrip()[:-1],
    "not JSON": lambda text: b"sample\tpath\n",
    "another JSON": lambda text: b"[1, 2]\n",
    "not UTF-8": lambda text: text.replace(b'"version"', b'"ver\xffsion"'),
    "a field too few": without_windows,
    "a field too many": lambda text: text.replace(b"{", b'{"more": 1,', 1),
    "a text for a number": lambda text: text.replace(b'"windows": ', b'"windows": "x', 1),
    "zeros, as after a power cut": lambda text: bytes(len(text)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_manifest(tmp_path: Path, one: tuple[Path, ChunkEntry], how: str) -> None:
    text = (one[0].parent / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(BROKEN[how](text))
    message = manifest_error(tmp_path)
    assert "not a manifest" in message
    assert message.endswith("; delete it and run again")


def test_a_changed_hash_in_the_manifest(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    other = entry.model_copy(update={"sha256": entry.sha256[::-1]})
    assert "the content has changed" in chunk_error(path, other)


def test_a_changed_number_of_rows_in_the_manifest(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    chunk_error(path, entry.model_copy(update={"open_frames": entry.open_frames + 1}))


@pytest.mark.parametrize("name", ["windows", "contigs"])
def test_a_damaged_table(one: tuple[Path, ChunkEntry], name: str) -> None:
    folder = ChunkFolder(one[0].parent)
    path = folder.path / f"{name}.parquet"
    whole = path.read_bytes()
    rows = sum(part.num_rows for part in read_table(path))
    assert rows == getattr(read_manifest(folder), name)
    for content, expected in ((None, "no such file"), (whole[:-9], "damaged"), (b"", "damaged")):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ChunkError, match=expected) as raised:
            list(read_table(path))
        assert str(raised.value).startswith(f"{path}: ")
        path.touch()


@pytest.mark.parametrize("name", ["contigs.parquet", "windows.parquet"])
def test_a_table_with_a_flipped_bit_in_a_column_name_is_damaged(tmp_path: Path, name: str) -> None:
    schema = {"contigs.parquet": CONTIG_SCHEMA, "windows.parquet": WINDOW_SCHEMA}[name]
    path = tmp_path / name
    pq.write_table(schema.empty_table(), path)
    assert sum(part.num_rows for part in read_table(path)) == 0
    names = ["bontig_index" if field == "contig_index" else field for field in schema.names]
    pq.write_table(schema.empty_table().rename_columns(names), path)
    with pytest.raises(ChunkError, match=f"{name}: not a table of this version"):
        read_columns(path, "contig_index")
