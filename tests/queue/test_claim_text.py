"""The text of a claim: its bytes, and what is read out of them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.queue.claim_text import ClaimText, name_and_pid, new_owner

KEY = "ab" * 32
NAMES = st.text(st.characters(exclude_characters="\n", exclude_categories=["C", "Z"]), min_size=1)


def test_its_bytes() -> None:
    text = ClaimText(KEY, "gpu-0-node-1.site-17-0123456789ab", 3, beats=12)
    content = f".{KEY}.gpu-0-node-1.site-17-0123456789ab-3 000000000012\n".encode()
    assert text.content() == content
    assert content.startswith(text.beginning) and not content.startswith(ClaimText(
        KEY, text.owner, 31).beginning)  # fmt: skip


@given(NAMES, NAMES, st.integers(0, 10**6), st.integers(0, 10**12 - 1))
def test_what_is_written_is_read(worker: str, host: str, number: int, beats: int) -> None:
    owner = new_owner(worker, host)
    text = ClaimText(KEY, owner, number, beats)
    assert ClaimText.parse(text.content()) == text
    assert name_and_pid(owner) == (f"{worker[:40]}-{host[:40]}", os.getpid())


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"another", f".{KEY}.a-1".encode(), f".{KEY}.a-1 000000000".encode()],
)
def test_anything_else_is_no_claim(content: bytes) -> None:
    assert ClaimText.parse(content) is None


def test_an_owner_of_another_kind_is_a_name() -> None:
    assert name_and_pid("somebody") == ("somebody", 0)
