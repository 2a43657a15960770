"""What became of the workers that were lost with a chunk."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Sequence

from virnuc_rules.queue.claim_text import ClaimText, name_and_pid

_KERNEL_LOG = "/dev/kmsg"
_KILLED = re.compile(rb"[Kk]illed process (\d+)")


def describe(lost: Sequence[ClaimText]) -> str:
    """Return one line on lost workers with their names, processes and logs."""
    killed = set(_killed_for_memory())
    parts = []
    for claim in lost:
        name, pid = name_and_pid(claim.owner)
        is_killed = name.endswith(f"-{socket.gethostname()[:40]}") and pid in killed
        why = ", by the kernel's out-of-memory killer" if is_killed else ""
        parts.append(f"{name} (process {pid}{why}; log: {claim.log})")
    count = f"{len(lost)} workers were" if len(lost) > 1 else "a worker was"
    return f"{count} lost with it: {', '.join(parts)}"


def _killed_for_memory() -> Iterator[int]:
    """Yield the processes that the kernel killed for memory, where this user may read its log."""
    with contextlib.suppress(OSError):
        log = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:
                yield from map(int, _KILLED.findall(os.read(log, 8192)))
        except BlockingIOError:
            return
        finally:
            os.close(log)
