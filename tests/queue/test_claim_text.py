"""The text of a claim: its bytes, and what is read out of them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.queue.claim_text import ClaimText, name_and_pid, new_owner

KEY = "ab" * 32
NAMES = st.text(st.characters(exclude_characters="\n", exclude_categories=["C", "Z"]), min_size=1)


def test_its_bytes() -> None:
    owner = "gpu-0-node-1.site-17-0123456789ab"
    text = ClaimText(
        key=KEY, owner=owner, index=3, life=12, work=7, still=5, limit=600, log="logs/0 a.log"
    )
    content = (
        f".{KEY}.{owner}-3 000000000012 000000000007 000000005 000000600 logs/0 a.log\n".encode()
    )
    assert text.content() == content
    other = ClaimText(key=KEY, owner=owner, index=31)
    assert content.startswith(text.beginning) and not content.startswith(other.beginning)


@given(NAMES, NAMES, NAMES, st.integers(0, 10**6), st.integers(0, 10**9 - 1))
def test_what_is_written_is_read(worker: str, host: str, log: str, number: int, beats: int) -> None:
    owner = new_owner(worker, host)
    text = ClaimText(
        key=KEY, owner=owner, index=number, life=beats, work=beats, still=beats, limit=1, log=log
    )
    assert ClaimText.parse(text.content()) == text
    assert name_and_pid(owner) == (f"{worker[:40]}-{host[:40]}", os.getpid())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"another",
        f".{KEY}.a-1".encode(),
        f".{KEY}.a-1 000000000".encode(),
        f".{KEY}.a-1 1 2 3 4 log".encode(),
    ],
)  # fmt: skip
def test_anything_else_is_no_claim(content: bytes) -> None:
    assert ClaimText.parse(content) is None


def test_an_owner_of_another_kind_is_a_name() -> None:
    assert name_and_pid("somebody") == ("somebody", 0)
