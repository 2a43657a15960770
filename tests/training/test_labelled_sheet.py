"""The sheet of labelled sequences, and the tables beside it: what is read, what is refused."""

from pathlib import Path

import pytest
from chunk_folders import chunk_it

from virnuc_rules.chunking.format import read_columns
from virnuc_rules.config.labels import read_controls
from virnuc_rules.config.model import Config, LabelledSettings
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.prediction.contig_calls import ContigRule, contig_calls
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.training.labelled import read_labelled
from virnuc_rules.training.scored import _called_windows
from virnuc_rules.training.sheet import read_labelled_sheet, tables_beside


def sheet(folder: Path, text: str) -> Path:
    path = folder / "labelled.tsv"
    path.write_text(text)
    return path


def test_each_file_has_its_own_group_annotation_and_part(tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_text("id\tgroup\na\tvirus 1\nb\tvirus 1\nc\tvirus 2\n")
    path = sheet(
        tmp_path,
        "sample\tpath\tlabel\tgroup\tgroups\tgenbank\tpart\n"
        f"phages\tp1.fa\tvirus\t\t{tmp_path / 'groups.tsv'}\t\t\n"
        "phages\tp2.fa\tvirus\tT4\t\tt4.gb\ttest\n"
        "cells\tc.fa\tnon_viral\t\t\t\t\n",
    )
    found = read_labelled_sheet(path)
    assert {name: list(files) for name, files in found.items()} == {
        "phages": ["p1.fa", "p2.fa"],
        "cells": ["c.fa"],
    }
    first, second = found["phages"].values()
    assert (first.label, second.label, found["cells"]["c.fa"].label) == (1, 1, 0)
    assert [first.group_of(contig) for contig in "abc"] == ["virus 1", "virus 1", "virus 2"]
    with pytest.raises(KeyError):
        first.group_of("d")
    assert second.group_of("any") == "T4"
    assert (second.genbank, second.part) == (Path("t4.gb"), "test")
    assert found["cells"]["c.fa"].group_of("record") == "record"  # each its own group
    assert tables_beside(found) == [tmp_path / "groups.tsv", Path("t4.gb")]


def test_a_pattern_gives_all_its_files_the_label(tmp_path: Path) -> None:
    for name in ("b.fa", "a.fa"):
        (tmp_path / name).write_text(">x\nACGT\n")
    path = sheet(tmp_path, f"sample\tpath\tlabel\t\nv\t{tmp_path}/*.fa\tvirus\n")
    assert list(read_labelled_sheet(path)["v"]) == [str(tmp_path / "a.fa"), str(tmp_path / "b.fa")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample\tpath\nv\tv.fa\n", "line 1: a column 'label' is needed: non_viral or virus"),
        (
            "sample\tpath\tlabel\nv\tv.fa\tphage\n",
            "line 2: label 'phage': write non_viral or virus",
        ),
        ("sample\tpath\tlabel\nv\tv.fa\t\n", "line 2: label '': write non_viral or virus"),
        (
            "sample\tpath\tlabel\nv\ta.fa\tvirus\nv\tb.fa\tnon_viral\n",
            "line 3: sample v has files of both labels; give each label a sample of its own",
        ),
        (
            "sample\tpath\tlabel\tpart\nv\ta.fa\tvirus\ttesting\n",
            "line 2: part 'testing': write train, validation, test, or nothing",
        ),
        (
            "sample\tpath\tlabel\tgroup\tgroups\nv\ta.fa\tvirus\tT4\tg.tsv\n",
            "line 2: give `group` or `groups`, not both",
        ),
        (
            "sample\tpath\tlabel\tgrups\nv\ta.fa\tvirus\tg.tsv\n",
            "column 'grups' is not known; did you mean 'groups'?",
        ),
        (
            "sample\tpath\tlabel\tnote\nv\ta.fa\tvirus\tx\n",
            "line 1: column 'note' is not known; known are annotations, genbank, group",
        ),
        (
            "sample\tpath\tlabel\tgroups\nv\ta.fa\tvirus\tno_such.tsv\n",
            "no_such.tsv: cannot be read (No such file or directory)",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VirnucError) as caught:
        read_labelled_sheet(sheet(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tgenome\na\tx\n", "line 1: the columns 'id' and 'group' are needed"),
        ("id\tgroup\na\t\n", "line 2: id or group is empty"),
        ("id\tgroup\na\n", "line 2: id or group is empty"),
        ("id\tgroup\na\tx\na\ty\n", "line 3: a has two values of group; leave one"),
    ],
)
def test_a_wrong_table_of_groups_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    groups = tmp_path / "groups.tsv"
    groups.write_text(text)
    path = sheet(tmp_path, f"sample\tpath\tlabel\tgroups\nv\tv.fa\tvirus\t{groups}\n")
    with pytest.raises(VirnucError) as caught:
        read_labelled_sheet(path)
    assert f"{groups}: {message}" in str(caught.value)


def test_controls_are_read_by_sample(tmp_path: Path) -> None:
    (tmp_path / "known.tsv").write_text("id\tlabel\na\tvirus\nb\tnon_viral\n")
    path = sheet(
        tmp_path, f"sample\tpath\tlabels\nlake\tl.fa\t{tmp_path / 'known.tsv'}\ngut\tg.fa\t\n"
    )
    assert read_controls(read_sheet(path)) == {"lake": {"a": "virus", "b": "non_viral"}}
    assert read_controls(read_sheet(sheet(tmp_path, "sample\tpath\nlake\tl.fa\n"))) == {}


def test_a_wrong_label_of_a_control_is_one_line(tmp_path: Path) -> None:
    known = tmp_path / "known.tsv"
    known.write_text("id\tlabel\na\tphage\n")
    path = sheet(tmp_path, f"sample\tpath\tlabels\nlake\tl.fa\t{known}\n")
    with pytest.raises(VirnucError, match="a: label 'phage': write non_viral or virus"):
        read_controls(read_sheet(path))


def test_two_tables_of_labels_that_disagree(tmp_path: Path) -> None:
    (tmp_path / "one.tsv").write_text("id\tlabel\na\tvirus\n")
    (tmp_path / "two.tsv").write_text("id\tlabel\na\tothers\n")
    rows = "".join(f"lake\t{n}.fa\t{tmp_path}/{n}.tsv\n" for n in ("one", "two"))
    with pytest.raises(VirnucError, match=r"two\.tsv: a has another label in an earlier table"):
        read_controls(read_sheet(sheet(tmp_path, "sample\tpath\tlabels\n" + rows)))


def test_records_without_bases_have_a_label_and_no_window(tmp_path: Path) -> None:
    texts = [("virus", ">e\n>a\nACGTACGT\n>f\n"), ("non_viral", ">b\nACGT\n>g\n>c\nACG\n"),
             ("virus", ""), ("non_viral", "")]  # fmt: skip
    rows = ["sample\tpath\tlabel\n"]
    settings = Config.of(samples=tmp_path / "labelled.tsv", results=tmp_path / "results")
    for number, (label, text) in enumerate(texts):
        source = tmp_path / f"s{number}.fa"
        source.write_text(text)
        chunk_it(source, RunFolder(settings.run.results).chunks(f"s{number}").path, 6)
        rows.append(f"s{number}\t{source}\t{label}\n")
    sheet(tmp_path, "".join(rows))
    virus, non_viral, none, _ = read_labelled(settings.part(LabelledSettings)).samples
    assert (virus.ids, virus.length.tolist()) == (["e", "a", "f"], [0, 8, 0])
    assert (virus.window_contig.tolist(), non_viral.window_contig.tolist()) == ([1, 1], [0, 2])
    assert none.ids == none.length.tolist() == none.window_contig.tolist() == []
    for sample in (virus, non_viral, none):
        consensus = Consensus.empty(sample.manifest.windows)
        (frames,) = read_columns(sample.folder.windows, "open_frames")
        consensus.frames[:], consensus.failed[:] = frames, frames > 0
        windows = _called_windows(Bundle(settings.run.bundle), sample, consensus)
        calls = contig_calls(windows, ContigRule(settings.calling, None))
        assert calls["call"].tolist() == ["no_call"] * len(sample.ids)
