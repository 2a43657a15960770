"""Open frames inside annotated coding sequences, against Biopython's own reading of locations."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.errors import InputError
from virnuc_rules.training.annotation import CodingSequences, read_genbank

LENGTH = 90


def record(*features: SeqFeature) -> SeqRecord:
    return SeqRecord(
        Seq("ACG" * (LENGTH // 3)),
        id="NC_000001.1",
        name="NC_000001",
        features=list(features),
        annotations={"molecule_type": "DNA"},
    )


def cds(exons: list[tuple[int, int]], strand: int, codon_start: int = 1) -> SeqFeature:
    parts = [SimpleLocation(start, end, strand) for start, end in exons]
    if strand < 0:
        parts.reverse()  # in the order of translation
    location = parts[0] if len(parts) == 1 else CompoundLocation(parts)
    return SeqFeature(location, type="CDS", qualifiers={"codon_start": [str(codon_start)]})


def codons(feature: SeqFeature) -> set[tuple[int, int, int]]:
    """The codons of a CDS that lie in one exon: base by base along the location."""
    skipped = int(feature.qualifiers["codon_start"][0]) - 1
    strand = feature.location.strand
    exons = [range(part.start, part.end)[::strand] for part in feature.location.parts]
    bases = [(base, number) for number, exon in enumerate(exons) for base in exon][skipped:]
    found = set()
    for at in range(0, len(bases) - 2, 3):
        three = bases[at : at + 3]
        if len({number for _, number in three}) == 1:
            places = sorted(base for base, _ in three)
            found.add((strand, places[0], places[2] + 1))
    return found


@st.composite
def features(draw: st.DrawFn) -> SeqFeature:
    cuts = sorted(draw(st.sets(st.integers(0, LENGTH), min_size=2, max_size=6)))
    exons = list(zip(cuts[::2], cuts[1::2], strict=False))
    return cds(exons, draw(st.sampled_from([1, -1])), draw(st.integers(1, 3)))


@given(st.lists(features(), min_size=1, max_size=3))
def test_a_codon_is_coding_where_biopython_reads_it(found: list[SeqFeature]) -> None:
    expected = set().union(*(codons(feature) for feature in found))
    coding = CodingSequences(record(*found))
    start = np.arange(LENGTH - 2)
    for strand in (1, -1):
        inside = coding.contain(strand, start, start + 3)
        assert {(strand, int(s), int(s) + 3) for s in start[inside]} == {
            each for each in expected if each[0] == strand
        }


def test_a_frame_must_be_inside_as_a_whole_in_phase_and_on_its_strand() -> None:
    coding = CodingSequences(record(cds([(10, 40)], 1)))
    start, end = np.array([10, 13, 11, 7, 37, 13]), np.array([40, 16, 38, 40, 43, 40])
    assert coding.contain(1, start, end).tolist() == [True, True, False, False, False, True]
    assert not coding.contain(-1, start, end).any()


def test_overlapping_sequences_do_not_hide_each_other() -> None:
    coding = CodingSequences(record(cds([(0, 60)], 1), cds([(30, 36)], 1)))
    assert coding.contain(1, np.array([33]), np.array([54])).tolist() == [True]


def test_other_features_do_not_count() -> None:
    gene = SeqFeature(SimpleLocation(0, 60, 1), type="gene")
    assert not CodingSequences(record(gene)).contain(1, np.array([0]), np.array([3])).any()


def test_exons_of_other_records_do_not_count_but_keep_the_phase() -> None:
    other = SimpleLocation(0, 10, 1, ref="J00194.1")
    feature = cds([(0, 3)], 1)
    feature.location = CompoundLocation([other, SimpleLocation(20, 50, 1)])
    coding = CodingSequences(record(feature))
    start = np.arange(0, 40)
    # Ten bases are three codons and one base: here the first codon begins after two more.
    assert start[coding.contain(1, start, start + 3)].tolist() == list(range(22, 40, 3))


@pytest.mark.filterwarnings("ignore:Could not parse feature location")
def test_a_location_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.gb"
    SeqIO.write([record(cds([(0, 30)], 1))], path, "genbank")
    path.write_text(path.read_text().replace("1..30", "1..huh"))
    with pytest.raises(InputError, match="a CDS has a location that cannot be read"):
        read_genbank(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_by_id_and_by_name(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "genome.gbff"
    SeqIO.write([record(cds([(0, 30), (40, 61)], -1, 2))], path, "genbank")
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    found = read_genbank(path)
    assert found.keys() == {"NC_000001.1", "NC_000001"}
    # complement(join(1..30,41..61)): the last exon is read first, from base 60 downwards, less one.
    assert found["NC_000001.1"].contain(-1, np.array([57]), np.array([60])).all()
    assert not found["NC_000001.1"].contain(-1, np.array([58]), np.array([61])).any()


@pytest.mark.parametrize("text", ["", ">not genbank\nACGT\n"])
def test_another_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.gb"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x.gb: (no records|not a GenBank file)"):
        read_genbank(path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_genbank(tmp_path / "x.gb")
