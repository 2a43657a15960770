"""Whether a product is up to date: by what it would be made of, and by the files that it has."""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from harness import UNREADABLE

from virnuc_rules.errors import EnvironmentProblem, MadeMeanwhile
from virnuc_rules.files import made
from virnuc_rules.files.made import Made, Product, Seen, accept, read_made, touch

HOUR = 3600 * 10**9  # ns


class Folder:
    """An input and a product with two files, as a command makes it."""

    def __init__(self, folder: Path) -> None:
        self.input, self.path, self.stamp = folder / "in.fa", folder / "out", folder / "stamp"
        self.input.write_text(">a\nACGT\n")
        self.path.mkdir()
        self.files = [self.path / "table.tsv", self.path / "tracks" / "a.bed"]

    def product(self, *more: Path, **of: Any) -> Product:
        inputs = [self.input, *more]
        return Product(self.path / "made.json", self.path / "done", {"window": 500, **of}, inputs)

    def make(self, content: str = "first\n", **more: Any) -> Made:
        product = self.product()
        inputs = product.look()
        for path in self.files:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        product.finish(inputs, self.files, None, **more)
        record = read_made(product.made)
        assert record
        return record


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def shift(path: Path, ns: int) -> None:
    """Change the time of a file."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + ns))


# --- what it is made of ------------------------------------------------------------------------


def test_what_was_made_is_up_to_date(folder: Folder) -> None:
    assert folder.product().current() is None
    assert not folder.product().up_to_date(folder.stamp)
    record = folder.make()
    assert folder.product().current() == record
    assert [seen.size for seen in record.inputs] == [8]
    assert sorted(record.files) == ["table.tsv", "tracks/a.bed"]
    assert not folder.stamp.exists()
    assert folder.product().up_to_date(folder.stamp)
    assert folder.stamp.exists() and read_made(folder.path / "made.json") == record


@pytest.mark.parametrize("of", [{"window": 300}, {"key": "other"}, {"none": None}])
def test_other_settings(folder: Folder, of: dict[str, Any]) -> None:
    folder.make()
    assert folder.product(**of).current() is None
    assert not folder.product(**of).up_to_date(None)


def test_settings_are_compared_as_json_has_them(folder: Folder) -> None:
    product = folder.product(names=("a", "b"), share=0.5, by={"a": 1})
    product.finish(product.look(), [], None)
    assert folder.product(names=["a", "b"], share=0.5, by={"a": 1}).current()


@pytest.mark.parametrize("ns", [-HOUR, -1, 1, HOUR])
def test_an_input_of_another_time_and_the_same_content(folder: Folder, ns: int) -> None:
    """It counts as changed until a job has read it; from then on its time is known."""
    before = folder.make()
    shift(folder.input, ns)
    assert folder.product().current() is None
    assert folder.product().up_to_date(folder.stamp)
    now = folder.product().current()
    assert now and now.key == before.key and now.files == before.files
    assert folder.stamp.exists()


@pytest.mark.parametrize("ns", [-HOUR, 0, HOUR])
def test_an_input_of_another_content(folder: Folder, ns: int) -> None:
    folder.make()
    size = folder.input.stat().st_size
    times = folder.input.stat()
    folder.input.write_text(">a\nACGTA\n")
    os.utime(folder.input, ns=(times.st_atime_ns, times.st_mtime_ns + ns))
    assert folder.input.stat().st_size != size
    assert folder.product().current() is None
    assert not folder.product().up_to_date(folder.stamp)
    assert not folder.stamp.exists()


def test_an_input_of_the_same_size_and_a_later_time(folder: Folder) -> None:
    folder.make()
    folder.input.write_text(">a\nTTTT\n")
    shift(folder.input, HOUR)
    assert folder.product().current() is None
    assert not folder.product().up_to_date(None)


def test_an_archived_input_is_not_missed(folder: Folder) -> None:
    record = folder.make()
    folder.input.unlink()
    assert folder.product().current() == record
    assert folder.product().up_to_date(None)
    assert folder.product().current() == record
    folder.input.write_text(">b\nAC\n")  # and another one in its place is
    assert folder.product().current() is None


def test_another_name_of_the_input_is_no_change(folder: Folder) -> None:
    key = folder.make().key
    folder.input = folder.input.rename(folder.input.with_name("renamed.fa"))
    assert folder.product().current() is None  # until its content was compared
    assert folder.product().up_to_date(None)
    record = folder.product().current()
    assert record and record.key == key


def test_files_of_equal_size_and_time_that_are_exchanged(folder: Folder, tmp_path: Path) -> None:
    folder.make()
    other = tmp_path / "other.fa"
    other.write_bytes(folder.input.read_bytes().swapcase())
    shutil.copystat(folder.input, other)
    folder.input = other
    assert folder.product().current() is None and not folder.product().up_to_date(None)


def test_a_path_that_never_was_is_not_an_archived_file(folder: Folder, tmp_path: Path) -> None:
    folder.make()
    folder.input = tmp_path / "typo.fa"
    assert folder.product().current() is None and not folder.product().up_to_date(None)


def test_more_or_fewer_inputs(folder: Folder, tmp_path: Path) -> None:
    folder.make()
    second = tmp_path / "second.fa"
    second.write_text(">b\nA\n")
    assert folder.product(second).current() is None
    assert not folder.product(second).up_to_date(None)


def test_an_input_that_cannot_be_looked_at_is_no_change(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it absent."""
    record, stat = folder.make(), Path.stat

    def refuse(path: Path, **more: Any) -> os.stat_result:
        if path == folder.input:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", refuse)
    assert not made.is_absent(folder.input)
    assert folder.product().current() == record
    assert folder.product().up_to_date(None)
    assert read_made(folder.path / "made.json") == record


def test_a_file_that_cannot_be_looked_at_is_neither_whole_nor_not(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made is not made again for a permission that lacks, or a disk that is away."""
    record, stat = folder.make(), Path.stat
    product = folder.product()
    assert product.settle() == record and product.done.exists()

    def refuse(path: Path, **more: Any) -> os.stat_result:
        if path == folder.files[1]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", refuse)
    for ask in (product.current, product.settle, lambda: product.up_to_date(None)):
        with pytest.raises(EnvironmentProblem) as raised:
            ask()
        assert str(raised.value) == f"{folder.files[1]}: Permission denied (EACCES)"
    assert product.done.exists() and read_made(product.made) == record


def test_a_record_that_cannot_be_read_is_neither(folder: Folder) -> None:
    folder.make()
    product = folder.product()
    product.settle()
    product.made.unlink()
    product.made.symlink_to(UNREADABLE)
    with pytest.raises(EnvironmentProblem, match=r"made\.json: Input/output error \(EIO\)"):
        product.settle()
    assert product.done.exists()
    product.made.unlink()
    os.mkfifo(product.made)  # no record; to open it would be to wait for ever
    assert product.settle() is None and not product.done.exists()


def test_what_is_no_file_has_no_size(tmp_path: Path) -> None:
    product = Product(tmp_path / "made.json", tmp_path / "done", {}, [Path("-"), tmp_path])
    unseen = product.look()
    assert [seen.size for seen in unseen] == [-1, -1]
    known = [seen.model_copy(update={"sha256": "0" * 64}) for seen in unseen]
    product.finish(known, [], None)  # nothing is read again
    record = read_made(product.made)
    assert record and [seen.sha256 for seen in record.inputs] == ["0" * 64] * 2


# --- the files that it has ---------------------------------------------------------------------


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
    shift(path, HOUR)


def restore_older(path: Path) -> None:
    path.write_text("third\n")
    shift(path, -HOUR)


@pytest.mark.parametrize("damage", [halve, restore_older, Path.unlink])
@pytest.mark.parametrize("number", [0, 1])
def test_a_file_that_is_not_whole(folder: Folder, damage: Any, number: int) -> None:
    folder.make()
    damage(folder.files[number])
    assert folder.product().current() is None
    assert not folder.product().up_to_date(folder.stamp)
    assert not folder.stamp.exists()


def test_a_file_that_snakemake_touched_is_whole(folder: Folder) -> None:
    record = folder.make()
    shift(folder.files[0], HOUR)
    assert folder.product().current() == record


def test_a_folder_that_was_moved(folder: Folder, tmp_path: Path) -> None:
    record = folder.make()
    folder.path = folder.path.rename(tmp_path / "elsewhere")
    assert folder.product().current() == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"of": {}, "from_the_future": 1}', None])
def test_a_record_that_is_none(folder: Folder, text: str | None) -> None:
    folder.make()
    path = folder.path / "made.json"
    path.unlink() if text is None else path.write_text(text)
    assert read_made(path) is None
    assert folder.product().current() is None


def test_hashes_that_are_known_are_not_computed_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def remember(path: Path) -> str:
        hashed.append(path)
        return "1" * 64

    monkeypatch.setattr(made, "file_sha256", remember)
    record = folder.make(known={folder.files[0]: "2" * 64})
    assert hashed == [folder.input, folder.files[1]]
    assert record.files["table.tsv"].sha256 == "2" * 64


# --- problems and failures ---------------------------------------------------------------------


def test_a_problem_stays_until_the_input_changes(folder: Folder) -> None:
    product = folder.product()
    seen = product.look(content=False)
    product.finish(seen, [], folder.stamp, problem="record 2: illegal letter")
    found = folder.product().current()
    assert found and found.problem == "record 2: illegal letter" and folder.stamp.exists()
    shift(folder.input, HOUR)  # its content was not read to the end: it is looked at again
    assert not folder.product().up_to_date(None)


def test_what_failed_is_tried_again(folder: Folder) -> None:
    record = folder.make(failed=["lake/chunk_000003.parquet"])
    assert record.failed == ["lake/chunk_000003.parquet"]
    assert folder.product().current() is None
    assert not folder.product().up_to_date(None)


def test_the_key_depends_on_content_and_not_on_times(folder: Folder, tmp_path: Path) -> None:
    key = folder.make().key
    shift(folder.input, HOUR)
    assert folder.make("second\n").key == key  # equal inputs give equal products
    assert folder.make(problem="x").key != key
    assert folder.make(failed=["x"]).key != key
    folder.input.write_text(">a\nTTTT\n")
    assert folder.make().key != key


# --- what Snakemake sees -----------------------------------------------------------------------


def test_done_exists_if_and_only_if_it_is_up_to_date(folder: Folder) -> None:
    product = folder.product()
    assert product.settle() is None and not product.done.exists()
    record = folder.make()
    assert product.settle() == record
    assert product.done.stat().st_size == 0
    assert product.done.stat().st_mtime_ns == product.made.stat().st_mtime_ns
    shift(product.done, -HOUR)
    earlier = product.done.stat().st_mtime_ns
    assert product.settle() == record
    assert product.done.stat().st_mtime_ns == earlier  # what exists keeps its time
    shift(product.done, 10 * HOUR)  # of a clock that is ahead
    assert product.settle() == record
    assert product.done.stat().st_mtime_ns <= time.time_ns()
    halve(folder.files[0])
    assert product.settle() is None and not product.done.exists()


def test_a_done_that_another_run_makes_meanwhile_stays(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job ended after we looked: what we found is older than what is there now."""
    product = folder.product()

    def current(self: Product) -> None:
        touch(self.done)

    monkeypatch.setattr(Product, "current", current)
    assert product.settle() is None
    assert product.done.exists()


# --- files that a command changes on purpose ---------------------------------------------------


def test_a_change_on_purpose_is_accepted(folder: Folder) -> None:
    before = folder.make()
    folder.files[1].write_text("calibrated\n")
    assert folder.product().current() is None
    accept(folder.path / "made.json", folder.files[1])
    now = folder.product().current()
    assert now and now.key == before.key
    assert now.files["tracks/a.bed"] == Seen.of(folder.files[1], now.files["tracks/a.bed"].sha256)
    assert now.files["table.tsv"] == before.files["table.tsv"]


def test_only_files_of_a_product_are_accepted(folder: Folder, tmp_path: Path) -> None:
    record = folder.make()
    (tmp_path / "other.txt").write_text("x")
    accept(folder.path / "made.json", tmp_path / "other.txt")
    assert read_made(folder.path / "made.json") == record
    accept(tmp_path / "made.json", tmp_path / "other.txt")
    assert not (tmp_path / "made.json").exists()


# --- two who make it at once -------------------------------------------------------------------


class Attempts:
    """What `write` does in each attempt: raises an error, or makes the files."""

    def __init__(self, folder: Folder, *errors: Exception) -> None:
        self.folder, self.errors, self.count = folder, list(errors), 0

    def __call__(self) -> None:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        self.folder.make()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(made.time, "sleep", slept.append)
    return slept


def test_who_was_slower_waits_for_the_files_of_the_other(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `done` is the other's too: an error would make Snakemake delete it."""
    slept: list[float] = []

    def pause(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            folder.make()

    monkeypatch.setattr(made.time, "sleep", pause)
    write = Attempts(folder, MadeMeanwhile("slower"))
    folder.product().make(write, folder.stamp)
    assert write.count == 1 and len(slept) == 3 and folder.stamp.exists()


def test_two_that_removed_the_files_of_each_other_try_again(
    folder: Folder, pauses: list[float]
) -> None:
    write = Attempts(folder, MadeMeanwhile("one"), MadeMeanwhile("two"))
    folder.product().make(write, folder.stamp)
    assert write.count == 3 and folder.stamp.exists()
    assert 5 < sum(pauses) < 40 and len(set(pauses)) > 10  # not both at the same moments


def test_in_the_end_it_is_an_error(folder: Folder, pauses: list[float]) -> None:
    write = Attempts(folder, *(MadeMeanwhile(str(n)) for n in range(9)))
    with pytest.raises(MadeMeanwhile):
        folder.product().make(write, folder.stamp)
    assert 2 < write.count < 9 and 20 < sum(pauses) < 120 and not folder.stamp.exists()


def test_another_error_is_not_waited_for(folder: Folder, pauses: list[float]) -> None:
    write = Attempts(folder, EnvironmentProblem("full disk"))
    with pytest.raises(EnvironmentProblem, match="full disk"):
        folder.product().make(write, folder.stamp)
    assert pauses == [] and not folder.stamp.exists() and write.count == 1
    folder.make()
    folder.product().make(Attempts(folder, EnvironmentProblem("full disk")), folder.stamp)
    assert folder.stamp.exists()
