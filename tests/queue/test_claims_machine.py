"""The queue as a state machine: workers claim, publish, fail, stall, wake and die in any order.

Nothing here runs at the same time and the only clock is a fake one. So what the folders must say
is known exactly after each step, and `Model` says it.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_claims import LEASE, Waiting, faked, payload, writer

from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.store import ATTEMPTS, listing

BEATS = 5  # per lease, as the heartbeat's thread does
KEYS = [f"{shard}{number:062x}" for number, shard in enumerate(("aa", "aa", "bb", "cc"))]
WORKERS = 3

Hand = tuple[int, str]  # the number of a worker, and a key
who_is_awake = st.runner().flatmap(lambda machine: st.sampled_from(machine.awake()))
who_looks = st.runner().flatmap(lambda machine: st.sampled_from(machine.looking()))
who_works = st.runner().flatmap(lambda machine: st.sampled_from(machine.working()))
some_looking = precondition(lambda machine: machine.looking())
some_working = precondition(lambda machine: machine.working())


class Killed(BaseException):
    """SIGKILL: no code of the worker's own runs after it."""


@dataclass
class Model:
    """What the folders must say."""

    done: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)  # of keys with a record of a failure
    owner: dict[str, str] = field(default_factory=dict)  # identity of the claim in claims/<key>
    beaten: dict[str, float] = field(default_factory=dict)  # when the counter rose, by identity
    hidden: dict[str, str] = field(default_factory=dict)  # partial and other hidden files -> key
    lost: set[str] = field(default_factory=set)  # keys of claims that were taken over


class Machine(RuleBasedStateMachine):
    """Three workers and four tasks; a worker that is killed is replaced by a new one at once."""

    @initialize()
    def begin(self) -> None:
        self.end = contextlib.ExitStack()
        monkeypatch = self.end.enter_context(pytest.MonkeyPatch.context())
        self.clock, self.model = faked(monkeypatch), Model()
        self.folder = Path(self.end.enter_context(tempfile.TemporaryDirectory()))
        self.end.enter_context(patch("os.fsync"))  # no power is cut here
        self.queues = [self.new_worker() for _ in range(WORKERS)]
        self.store = self.queues[0].store
        self.stalled: set[int] = set()

    def new_worker(self) -> Queue:
        queue = Queue(self.folder, "w", LEASE)
        store = queue.store
        for folder in (store.claims, store.failures, store.lost, store.finished):
            folder.mkdir(parents=True, exist_ok=True)
        return queue

    def awake(self) -> list[int]:
        return [number for number in range(WORKERS) if number not in self.stalled]

    def working(self) -> list[Hand]:
        """Who can end what, as far as they know."""
        return [
            (number, key) for number in self.awake() for key in sorted(self.queues[number].held)
        ]

    def looking(self) -> list[Hand]:
        """Who can try to claim what."""
        held = self.working()
        return [(n, key) for n in self.awake() for key in KEYS if (n, key) not in held]

    # What time does

    @precondition(lambda self: self.model.owner)
    @rule(beats=st.integers(1, 3 * BEATS))
    def pass_time(self, beats: int) -> None:
        for _ in range(beats):
            self.clock.now += LEASE / BEATS
            for number, key in self.working():
                claim = self.queues[number].held[key]
                claim.beat(self.queues[number].pace)
                self.model.beaten[claim.identity] = self.clock.now

    @some_working
    @rule(who=who_works)
    def stall(self, who: Hand) -> None:
        """SIGSTOP, a frozen node, a network that hangs: the worker still believes what it did."""
        self.stalled.add(who[0])

    @precondition(lambda self: self.stalled)
    @rule()
    def wake(self) -> None:
        self.stalled.remove(min(self.stalled))

    # What workers do

    @some_looking
    @rule(who=who_looks)
    def claim(self, who: Hand) -> None:
        """A claim succeeds just where nobody has the key, or its owner's counter stood still."""
        number, key = who
        before = self.model.owner.get(key)
        claim = self.queues[number].claim(key)
        if not claim:
            assert before or key in self.model.done, "a free task was not to be had"
            if before and not (self.store.claims / key).exists():  # of a done key: removed
                assert key in self.model.done
                assert self.clock.now - self.model.beaten[before] >= LEASE, "removed too early"
                del self.model.owner[key]
                self.model.lost.add(key)
            return
        assert key not in self.model.done
        assert not before or self.clock.now - self.model.beaten[before] >= LEASE, "taken too early"
        if before:
            self.model.lost.add(key)
        self.model.owner[key] = claim.identity
        self.model.beaten[claim.identity] = self.clock.now

    @some_looking
    @rule(who=who_looks)
    def watch(self, who: Hand) -> None:
        """Who looks again after a lease gets what the dead and stalled hold, and only that."""
        _, key = who
        self.claim(who)
        for _ in range(BEATS):
            if who in self.looking() and key not in self.model.done:
                self.pass_time(1)
                self.claim(who)
        if who in self.looking() and key not in self.model.done:
            beating = {self.queues[n].held[k].identity for n, k in self.working()}
            assert self.model.owner[key] in beating, "nobody works on it"

    @some_working
    @rule(who=who_works, meanwhile=st.sampled_from(["nothing", "overtaken", "done by another"]))
    def publish(self, who: Hand, meanwhile: str) -> None:
        """Publish in two steps, between which the others see what they may see."""
        number, key = who

        def write(path: Path) -> None:
            with path.open("wb") as handle:
                handle.write(payload(key)[:100])
                handle.flush()
                self.model.hidden[path.name] = key
                self.folders_agree()
                if meanwhile in ("overtaken", "done by another"):
                    self.overtake(who)
                if meanwhile == "done by another":
                    self.publish_by_another(who)
                self.sweep(number)
                self.folders_agree()
                handle.write(payload(key)[100:])
            self.model.hidden.pop(path.name, None)

        claim = self.queues[number].held[key]
        self.queues[number].publish(claim, write)
        self.is_done(key)
        self.has_ended(claim)

    def publish_by_another(self, who: Hand) -> None:
        for other in self.working():
            if other != who and other[1] == who[1]:
                self.publish(other, "nothing")

    @some_working
    @rule(who=who_works)
    def overtake(self, who: Hand) -> None:
        """Others take from a stalled owner, if there are others. It wakes and knows nothing."""
        number, key = who
        self.stall(who)
        for other in self.awake():
            if (other, key) in self.looking():
                self.watch((other, key))
        self.stalled.remove(number)

    @some_working
    @rule(who=who_works)
    def publish_in_vain(self, who: Hand) -> None:
        """An error while writing leaves the claim, and nothing else."""
        number, key = who

        def write(path: Path) -> None:
            path.write_bytes(payload(key)[:100])
            raise OSError("disk full")

        with pytest.raises(OSError):
            self.queues[number].publish(self.queues[number].held[key], write)

    @some_working
    @rule(who=who_works)
    def fail(self, who: Hand) -> None:
        number, key = who
        claim = self.queues[number].held[key]
        failure = self.queues[number].fail(claim, "lake/1", "ValueError: bad", "Traceback")
        assert failure.attempts == min(claim.attempts + 1, ATTEMPTS)
        self.model.attempts[key] = max(failure.attempts, self.model.attempts.get(key, 0))
        self.has_ended(claim)

    @some_working
    @rule(who=who_works)
    def release(self, who: Hand) -> None:
        number, key = who
        claim = self.queues[number].held[key]
        self.queues[number].release(claim)
        self.has_ended(claim)

    def is_done(self, key: str) -> None:
        self.model.done.add(key)
        self.model.attempts.pop(key, None)

    def has_ended(self, claim: Claim) -> None:
        """The claim is gone, unless it is another's by now."""
        if self.model.owner.get(claim.key) == claim.identity:
            del self.model.owner[claim.key]

    @precondition(lambda self: self.awake() and (self.model.owner or self.model.hidden))
    @rule(number=who_is_awake)
    def sweep(self, number: int) -> None:
        self.queues[number].store.sweep(KEYS)
        done, before = self.model.done, self.model.owner
        self.model.owner = {k: v for k, v in self.model.owner.items() if k not in done}
        # Partial results are looked for only where something else is left of a task.
        left = set(before) | set(self.model.attempts) | self.model.lost
        left |= {key for name, key in self.model.hidden.items() if not name.endswith(".partial")}
        self.model.hidden = {
            name: key
            for name, key in self.model.hidden.items()
            if key not in done or (name.endswith(".partial") and key not in left)
        }
        # A stalled owner can fail at what another has published: of that nothing stays.
        self.model.attempts = {k: n for k, n in self.model.attempts.items() if k not in done}
        self.model.lost -= done

    @precondition(lambda self: self.model.done)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """A person deletes a result: the task is pending again."""
        key = data.draw(st.sampled_from(sorted(self.model.done)))
        self.store.result(key).unlink()
        self.model.done.remove(key)

    # How workers die

    @some_working
    @rule(who=who_works)
    def die_while_working(self, who: Hand) -> None:
        """The claims stay, and nobody beats for them."""
        self.die(who[0])

    def die(self, number: int) -> None:
        for claim in self.queues[number].held.values():
            self.end.callback(os.close, claim.descriptor)
        self.queues[number] = self.new_worker()
        self.stalled.discard(number)

    @some_looking
    @rule(who=who_looks)
    def die_while_claiming(self, who: Hand) -> None:
        """Killed between link and unlink: the claim's own file is there, too."""
        number, key = who
        self.claim(who)
        if claim := self.queues[number].held.get(key):
            os.link(self.store.claims / key, self.store.claims / claim.identity)
            self.model.hidden[claim.identity] = key
            self.die(number)

    @some_working
    @rule(who=who_works, size=st.sampled_from([0, 100, None]))
    def die_while_writing(self, who: Hand, size: int | None) -> None:
        """The partial file stays, with nothing in it, a part of the result, or all of it."""
        number, key = who
        partial = self.folder

        def write(path: Path) -> None:
            nonlocal partial
            partial = path
            raise Killed

        with pytest.raises(Killed):
            self.queues[number].publish(self.queues[number].held[key], write)
        partial.write_bytes(payload(key)[:size])
        self.model.hidden[partial.name] = key
        self.die(number)

    @some_working
    @rule(who=who_works)
    def die_before_release(self, who: Hand) -> None:
        """The result is there, and so is the claim."""
        number, key = who
        with patch.object(Queue, "release", side_effect=Killed), pytest.raises(Killed):
            self.queues[number].publish(self.queues[number].held[key], writer(key))
        self.is_done(key)
        self.die(number)

    # What is always true

    @invariant()
    def folders_agree(self) -> None:
        self.results_are_whole()
        names = listing(self.store.claims)
        hidden = {name for name in names if name.startswith(".")}
        hidden |= {path.name for path in self.store.embeddings.glob("*/.*")}
        assert hidden == set(self.model.hidden)
        claims = {name: (self.store.claims / name).read_text() for name in names - hidden}
        assert {key: text.split()[0] for key, text in claims.items()} == self.model.owner
        assert self.store.attempts() == self.model.attempts
        failed = {key for key, attempts in self.model.attempts.items() if attempts == ATTEMPTS}
        assert self.store.failed(KEYS).keys() == failed
        assert self.store.losses().keys() == self.model.lost

    def results_are_whole(self) -> None:
        assert self.store.done(KEYS) == self.model.done
        assert {key for key in KEYS if self.store.is_done(key)} == self.model.done
        visible = [path for path in self.store.embeddings.glob("*/*") if path.name[0] != "."]
        assert {path: path.read_bytes() for path in visible} == {
            self.store.result(key): payload(key) for key in self.model.done
        }

    # How it ends

    def teardown(self) -> None:
        if hasattr(self, "end"):
            with self.end:
                self.finish()

    def finish(self) -> None:
        """Whatever has happened: one fresh worker finishes everything and leaves nothing behind."""
        for number in range(WORKERS):
            self.die(number)
        queue, tried = self.new_worker(), []
        queue.interrupted = Waiting(self.clock)
        queue.store.begin()
        for claim in queue.drain(KEYS):
            tried.append(claim.key)
            queue.publish(claim, writer(claim.key))
        assert sorted(tried) == sorted(set(KEYS) - self.model.done)
        queue.store.sweep(KEYS)
        queue.store.begin()
        self.model = Model(done=set(KEYS))
        self.folders_agree()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
