"""What the scripts in demo/train leave out, link and name."""

import itertools
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import REPO
from labelled import coding

sys.path += [str(REPO / "demo/train"), str(REPO / "benchmarks")]
from clusters import clustered
from data import LENGTHS, cut, separate, write, write_all
from frames import read_part
from kmers import K, Known
from peers_tasks import read_records
from prophages import like_viruses, viral_words, without_prophages
from sequences import SEED, Record, SourceFile
from species import with_species

from virnuc_rules.files.atomic import file_sha256
from virnuc_rules.training.split import part_of

COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def dna(length: int, seed: int) -> bytes:
    return np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), length).tobytes()


def gene(length: int, seed: int) -> bytes:
    return coding(np.random.default_rng(seed), length, 0.5).encode()


def test_bases_that_known_words_cover() -> None:
    shared = dna(60, 1)
    known = Known.of([dna(500, 2) + shared, b"", b"ACGT"])
    for piece in (shared, shared.translate(COMPLEMENT)[::-1]):
        covered = known.cover(dna(100, 3) + piece + dna(100, 4))
        assert np.flatnonzero(covered).tolist() == list(range(100, 160))
    assert not known.cover(dna(100, 3) + shared[: K - 1] + dna(100, 4)).any()
    assert known.cover(b"A" * (K - 1)).tolist() == [False] * (K - 1)
    assert not Known.of([]).cover(shared).any()


def test_a_prophage_is_left_out_and_a_single_gene_is_not() -> None:
    genes = [Record(f"virus_{n}", gene(1500, n)) for n in range(3)]
    words = viral_words(genes)
    before, after, cell = gene(6000, 10), gene(6000, 11), gene(3000, 12)
    prophage = b"".join(record.bases for record in genes)
    genome = Record("genome", before + prophage + after)
    pieces = [*without_prophages([Record("cell", cell), genome], words)]
    assert pieces[0] == Record("cell", cell)
    assert [len(piece.bases) for piece in pieces[1:]] == [6000, 6000]
    assert pieces[1].bases == before and pieces[2].bases == after
    assert [piece.id for piece in pieces[1:]] == ["genome:1-6000", "genome:10501-16500"]
    single = Record("single", before + genes[0].bases[:500] + after)
    assert [*without_prophages([single], words)] == [single]
    assert like_viruses([genes[0], Record("cell", cell)], words).tolist() == [True, False]


def test_relatives_are_one_group_in_one_part() -> None:
    one = gene(9000, 1)
    relative, far = one[:3000] + gene(6000, 2), gene(6000, 3) + one[3000:6000]
    records = [Record(name, bases, name) for name, bases in (
        ("one", one), ("new", gene(9000, 4)), ("relative", relative), ("far", far),
    )]  # fmt: skip
    genomes, genes = clustered(records[:2], records[2:])
    found = [*genomes, *genes]
    assert [record.group for record in found] == ["one", "new", "one", "one"]
    # The largest cluster is in the train part, and of the others with genomes the first in test.
    assert [record.part for record in found] == ["train", "test", "train", "train"]
    assert [record.bases for record in found] == [record.bases for record in records]


def test_written_ids_are_unique(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1 ids that two records have, as a"):
        write([Record("a", b"A"), Record("b", b"A"), Record("a", b"C")], tmp_path, "genes")
    assert not [*tmp_path.iterdir()]


def test_genomes_are_cut_without_loss() -> None:
    genome = Record("it", dna(100_000, 1), "it", "test")
    pieces = [*cut([genome])]
    assert b"".join(piece.bases for piece in pieces) == genome.bases
    assert {len(piece.bases) for piece in pieces[:-1]} == set(LENGTHS["test"])
    assert len({piece.id for piece in pieces}) == len(pieces)


def test_an_id_that_a_file_has_twice_gets_a_number(tmp_path: Path) -> None:
    """A package's plasmids have some, and `snakemake train` refuses them."""
    path = tmp_path / "it.fa"
    path.write_text(">a x\nACGT\n>b\nAC\n>a y\nGG\n>a\nTT\n")
    sha256 = file_sha256(path)
    file = SourceFile("bacteria", "it", "train", path, sha256, "")
    assert [record.id for record in file.records()] == ["a", "b", "a_2", "a_3"]
    with pytest.raises(SystemExit, match="has sha256"):
        next(SourceFile("bacteria", "it", "train", path, "", "").records())


def test_a_group_has_the_part_that_the_sheet_gives_it(tmp_path: Path) -> None:
    """Also in a file without a part, as the genes of a virus whose genome is in another file."""
    rows = ["sample\tpath\tlabel\tgroups\tpart"]
    for name, part in (("genes", ""), ("genome", "test")):
        (tmp_path / f"{name}.fa").write_text(f">{name}\nACGT\n")
        (tmp_path / f"{name}.tsv").write_text(f"id\tgroup\n{name}\tit\n")
        rows.append(f"{name}\t{tmp_path}/{name}.fa\tvirus\t{tmp_path}/{name}.tsv\t{part}")
    sheet = tmp_path / "training.tsv"
    sheet.write_text("\n".join(rows) + "\n")
    assert part_of("it", SEED) == "validation"
    assert [record.id for record in read_records(sheet, "test")] == ["genes", "genome"]
    assert not [*read_records(sheet, "validation")]
    assert len(read_part(sheet, "test").length) == 2
    assert not len(read_part(sheet, "validation").length)


def changed(bases: bytes, fraction: float) -> bytes:
    draw = np.random.default_rng(5)
    letters = np.frombuffer(bases, np.uint8).copy()
    at = np.flatnonzero(draw.random(len(letters)) < fraction)
    letters[at] = np.frombuffer(bases.translate(COMPLEMENT), np.uint8)[at]
    return letters.tobytes()


def test_genes_of_the_species_of_a_genome(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of one strain, and the rest of their group; not those of another species."""
    genomes = [Record(name, dna(20_000, seed), name, "test") for seed, name in enumerate("ab")]
    strain = genomes[1].bases[2_000:4_000].translate(COMPLEMENT)[::-1]
    genes = [
        Record("same", changed(strain, 0.02), "group"),
        Record("its", dna(2_000, 7), "group"),
        Record("related", changed(genomes[0].bases[:2_000], 0.1), "related"),
        Record("short", genomes[0].bases[:32], "short"),
    ]
    found = [(gene.group, gene.part) for gene in with_species(genes, genomes)]
    assert found == [("b", "test")] * 2 + [("related", "train"), ("short", "train")]
    assert "2 cellular genes of 1 groups:\n  b 2" in capsys.readouterr().out


def test_no_base_of_a_test_genome_is_trained_on() -> None:
    """Also where only a part of the genome is in the test part."""
    whole = Record("whole", dna(20_000, 1), "it", "test")
    inside = Record("gene", whole.bases[9_000:9_500], "other")
    samples = {
        "cellular_genes": [inside, Record("free", dna(500, 2), "other")],
        "prokaryotes": [
            replace(whole, bases=whole.bases[:2_000]),
            Record("train", dna(400, 3) + whole.bases[15_000:15_100] + dna(400, 4), "else"),
        ],
    }
    separate(samples, [whole])
    assert [record.id for record in samples["cellular_genes"]] == ["free"]
    left = [(record.id, record.part) for record in samples["prokaryotes"]]
    assert left == [("whole", "test"), ("train:1-400", "train"), ("train:501-900", "train")]


def test_records_by_their_titles(tmp_path: Path) -> None:
    path = tmp_path / "plasmids.fa"
    path.write_text(">a Escherichia coli plasmid\nACGT\n>b Salmonella plasmid\nacgt\n")
    source = SourceFile("bacteria", "", None, path, file_sha256(path), "^(?!.*Escherichia)")
    assert [(record.id, record.bases) for record in source.records()] == [("b", b"ACGT")]


def test_a_fraction_of_the_groups(tmp_path: Path) -> None:
    """Half of them is in all of them, and no group is read in part."""
    records = [Record(f"{n}", b"ACGT" * (n // 2 + 1), f"{n // 2}", "test") for n in range(80)]
    write_all({"eukaryotes": records}, tmp_path)
    lengths = [
        read_part(tmp_path / "training.tsv", "test", fraction).length.tolist()
        for fraction in (0.1, 0.5, 1)
    ]
    for fewer, more in itertools.pairwise(map(Counter, lengths)):
        assert fewer and fewer < more and set(fewer.values()) == {2}
    assert sum(map(len, lengths[-1:])) == len(records)


def test_a_sheet_that_would_split_otherwise_is_not_written(tmp_path: Path) -> None:
    """A cluster of genes alone has no row that says its part."""
    genes = [Record("gene", b"ACGT", "it", "train")]
    with pytest.raises(SystemExit, match="gene would not be in the train part"):
        write_all({"viral_genes": genes}, tmp_path)
    write_all({"viral_genes": genes, "viral_genomes": [replace(genes[0], id="all")]}, tmp_path)
