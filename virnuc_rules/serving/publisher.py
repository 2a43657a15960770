"""Publishing beside computing: a chunk's result is written while the next chunk is embedded."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from virnuc_rules.config.model import Embedding
from virnuc_rules.errors import EnvironmentProblem
from virnuc_rules.files.environment import environment_named, patient
from virnuc_rules.queue.claims import Claim, Queue

if TYPE_CHECKING:  # imports torch
    from virnuc_rules.embedding.embedding_file import Result


class Publisher:
    """Writes one result at a time in a thread; use it as a context manager.

    A worker then holds two claims, of the chunk that is written and of the one that is embedded.
    Where writing fails, also when it is tried again, the claim is released and the next call raises
    what went wrong; while the server of the results is away, result and claim are kept. `published`
    is called, in the caller's thread, for each result in place.
    """

    def __init__(
        self,
        queue: Queue,
        settings: Embedding,
        published: Callable[[Claim, "Result"], None],
    ) -> None:
        self.queue, self.settings, self.published = queue, settings, published
        self._thread = ThreadPoolExecutor(1, "publisher")
        self._pending: tuple[Claim, Future[Result]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.settle()  # its error is the cause of what else may have ended the block
        finally:
            self._thread.shutdown()

    def publish(self, claim: Claim, kept: Callable[[], "Result"]) -> None:
        """Pass a result to the writing thread, after the result before it is published.

        `kept` is called in that thread.
        """
        self.settle()
        self._pending = claim, self._thread.submit(self._write, claim, kept)

    def settle(self) -> None:
        """Wait until the last result is published. Raises what went wrong."""
        if self._pending:
            claim, written = self._pending
            self._pending = None
            self.published(claim, written.result())

    def _write(self, claim: Claim, kept: Callable[[], "Result"]) -> "Result":
        from virnuc_rules.embedding.embedding_file import write_result

        @patient
        def write() -> "Result":
            with environment_named(self.queue.store.result(claim.key)):
                result = kept()
                self.queue.publish(
                    claim, lambda path: write_result(path, claim.key, self.settings, result)
                )
            return result

        try:
            self.queue.pace.step()
            while True:
                try:
                    return write()
                except EnvironmentProblem as problem:  # of a server that is away, it waits
                    if not self.queue.outages.outlast(problem):
                        raise
        except BaseException:
            self.queue.postponed.add(claim.key)
            self.queue.release(claim)
            raise
        finally:
            self.queue.pace.step()
