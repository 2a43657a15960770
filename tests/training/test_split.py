"""Groups to parts: by name alone, the same everywhere."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.training.split import PARTS, TEST, VALIDATION, hash_fraction, part_of


def test_the_split_is_the_same_everywhere_and_for_ever() -> None:
    # Of another implementation: `printf '1\tgenome_0' | sha256sum`, first 16 digits / 2^64.
    assert hash_fraction("genome_0", 1) == int("d791b61082bb208f", 16) / 2**64
    assert [part_of(f"genome_{n}", 1) for n in range(12)] == [
        "train",
        "test",
        "test",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
    ]


@given(st.text(), st.integers())
def test_any_name_has_a_place(group: str, seed: int) -> None:
    assert 0 <= hash_fraction(group, seed) < 1
    assert part_of(group, seed) in PARTS


def test_parts_have_their_share_of_the_groups() -> None:
    number = 20_000
    counts = Counter(part_of(f"GCF_{n}", 1) for n in range(number))
    shares = {"test": TEST, "validation": VALIDATION, "train": 1 - TEST - VALIDATION}
    for part, share in shares.items():
        assert abs(counts[part] / number - share) < 0.01


def test_another_seed_is_another_split() -> None:
    groups = [f"genome_{n}" for n in range(100)]
    assert [part_of(g, 1) for g in groups] != [part_of(g, 2) for g in groups]
