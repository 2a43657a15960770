"""Short runs of all commands with faults at random: `python faulty_runs.py FOLDER SEED FAULTS`.

To be started with the library of injector.c. In each run a fresh project goes through chunk,
serve, predict, report and train; each command is called again and again, with faults and sometimes
killed, and at last without faults. Nothing may be lost, changed or blamed by it. What happened is
printed as JSON; `wrong` is empty if all is well. With 0 faults, `train` replaces a bundle and is
killed before each step of that.
"""

import functools
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from injector import Ended, Faults, command, import_everything

from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import CLASSIFIER

SAMPLES = ("virus", "non_viral")
PROBABILITIES = (0.005, 0.03, 0.06)
KILLED, LIFE = 0.15, 300  # fraction of commands that are killed; at one of so many calls
MANY = 20  # problems: enough to look at
STEPS_OF_PUTTING = "rename renameat2"
CALLS = 16  # of a command with faults, until it is called without
BUSY = 75
UNREAD = "cannot be read "  # a sample: noted, tried again in the next run; `check` fails till then
PARTIAL = re.compile(r"\.([^/]+)\.[0-9a-f]{32}\.partial")
# Of an undisturbed run, other bytes each time: times, logs, names of processes.
CHANGING = re.compile(
    r"results/(logs|queue)/|(^|/)(done|.*made\.json|provenance\.json|.*\.html|.*\.svg)$"
    r"|^trained/(bundle|evaluation)\.json$"
)


class Step(NamedTuple):
    """A command, and what it makes: the paths below the project begin with this."""

    words: list[str]
    makes: str


def steps() -> Iterator[Step]:
    settings = ["--samples=labelled.tsv", "--bundle=bundle", "--results=results"]

    def step(makes: str, name: str, *words: str) -> Step:
        stamp = f"--stamp=results/queue/stamps/{name}_{makes.strip('/').rpartition('/')[2]}"
        return Step([name, *words, stamp, f"--log=results/logs/{name}.log"], makes)

    for sample in SAMPLES:
        out = f"results/chunks/{sample}"
        sizes = ("--window=500", "--chunk-size=20")
        yield step(f"{out}/", "chunk", f"{sample}.fa", f"--out={out}", *sizes)
    worker = ("--worker=0", "--threads=1", "--lease-seconds=1")
    yield step("results/embeddings/", "serve", *worker, *settings)
    for sample in SAMPLES:
        out = f"results/{sample}"
        yield step(f"{out}/", "predict", f"--sample={sample}", f"--out={out}", *settings[1:])
    yield step("results/viruses.", "collect", *settings)
    yield step("results/multiqc/", "report", *settings)
    fitting = ("--trained-bundle=trained", "--hidden=8", "--max-epochs=1", "--seed=63")
    yield step("trained/", "train", *fitting, "--threads=1", *settings)


class Runs:
    """Many short runs, each over a copy of the folder `given` of inputs."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.given = folder, folder / "given"
        self.chance, self.seeds = random.Random(seed), itertools.count(1_000_000 * seed)
        self.faults, self.codes = Counter[str](), Counter[str]()
        self.wrong: list[str] = []
        self.old: list[bool] = []  # whether the old bundle was there after each kill
        self.expected: dict[str, str] = {}

    def undisturbed(self) -> None:
        """Find out what is right."""
        project = self._project("undisturbed")
        for step in steps():
            ended = command(project, step.words)
            assert ended.code == 0, ended.errors
        self.expected = lasting(project)
        for step in steps():
            assert any(name.startswith(step.makes) for name in self.expected), step

    def run(self, number: int) -> None:
        """Do one short run."""
        project = self._project(f"run_{number}")
        for step in steps():
            for _ in range(CALLS):
                if self.disturb(project, step):
                    break
            else:
                ended = command(project, step.words)
                self.note(ended.code != 0, "it fails without faults", step, ended)
        ended = Ended(0, "", [])
        self.note(lasting(project) != self.expected, "other files at the end", step, ended)
        # A partial file that could not be removed is, when its file is next made.
        left = [name for name in self.left_over(project) if not PARTIAL.search(name)]
        self.note(bool(left), f"left over: {left}", step, ended)
        shutil.rmtree(project)

    def killed_at_each_step(self) -> None:
        """Replace a trained bundle, killed before each rename: the old or the new one is there."""
        project = self._project("killed")
        *others, train = steps()
        for step in (*others, train):
            assert command(project, step.words).code == 0
        old = trained(project)
        other = train._replace(words=[*train.words, "--hidden=9"])
        for step in itertools.count(1):
            faults = Faults(
                below=project, log=self.folder / "faults", calls=STEPS_OF_PUTTING, kill_at=step
            )
            ended = command(project, other.words, faults)
            self.codes[f"train {ended.code}"] += 1
            there = trained(project)
            if ended.code == 0:
                break
            self.old.append(there == old)
            self.note(ended.code != -signal.SIGKILL, "it was not killed", other, ended)
            if there != old:  # put it back
                again = command(project, train.words)
                assert again.code == 0, again.errors
                assert trained(project) == old
        self.note(there == old, "it made no other bundle", other, ended)
        left = self.left_over(project)
        self.note(bool(left), f"left over: {left}", other, ended)

    def disturb(self, project: Path, step: Step) -> bool:
        """Call a command once with faults; tell whether it has made everything."""
        faults = Faults(
            below=project,
            log=self.folder / "faults",
            probability=self.chance.choice(PROBABILITIES),
            seed=next(self.seeds),
            kill_at=self.chance.randint(1, LIFE) if self.chance.random() < KILLED else 0,
        )
        before = lasting(project)
        ended = command(project, step.words, faults)
        self.faults.update(f"{f.call}{' (reply lost)' * f.is_lost}" for f in ended.faults)
        self.codes[f"{step.words[0]} {ended.code}"] += 1
        self.compare(before, lasting(project), step, ended)
        self.check_end(project, step, ended)
        return ended.code == 0 and UNREAD not in ended.errors

    def compare(
        self, before: dict[str, str], after: dict[str, str], step: Step, ended: Ended
    ) -> None:
        """Compare files with those before: what was right still is, and nothing is half done."""
        for name in sorted(before.keys() | after.keys()):
            right = self.expected.get(name)
            if before.get(name) == right and after.get(name) != right and name in before:
                self.note(True, f"{name}: was right, and is changed or gone", step, ended)
            elif name in after and after[name] not in (right, before.get(name)):
                self.note(True, f"{name}: not as in an undisturbed run", step, ended)
        if ended.code == 0 and UNREAD not in ended.errors:
            made = {n for n in self.expected if n.startswith(step.makes)}
            lost = sorted(n for n in made if after.get(n) != self.expected[n])
            self.note(bool(lost), f"exit code 0 without {lost}", step, ended)

    def check_end(self, project: Path, step: Step, ended: Ended) -> None:
        """Check exit code and message: cause and path of a fault, and no blame."""
        text, faults = ended.errors, ended.faults
        self.note("Traceback" in text, "a traceback", step, ended)
        self.note("damaged" in text, "data are blamed", step, ended)
        expected = ended.code in (0, BUSY, -signal.SIGKILL)
        self.note(not expected, f"exit code {ended.code}", step, ended)
        if ended.code > 0 or UNREAD in text:
            named = [f for f in faults if any(cause in text for cause in causes(f.number))]
            self.note(not named, "the cause is not named", step, ended)
            where = any(name in text for fault in faults for name in names(project, fault.path))
            self.note(not where, "the path is not named", step, ended)

    def note(self, is_wrong: bool, what: str, step: Step, ended: Ended) -> None:
        if is_wrong:
            faults = "; ".join(map(str, ended.faults[-6:]))
            said = " / ".join(ended.errors.splitlines()[-12:])
            self.wrong.append(f"{step.words[0]}: {what}. Faults: {faults}. It said: {said}")

    def left_over(self, project: Path) -> list[str]:
        queue = (project / "results/queue" / name for name in ("claims", "failed"))
        files = itertools.chain(project.rglob(".*"), *(folder.glob("*") for folder in queue))
        found = (str(path.relative_to(project)) for path in files)
        return sorted(name for name in found if not name.startswith("results/logs/"))

    def _project(self, name: str) -> Path:
        return Path(shutil.copytree(self.given, self.folder / name))


def causes(number: int) -> tuple[str, ...]:
    """Return what a message says of an errno."""
    said = os.strerror(number)
    return (said, "not enough memory") if number == 12 else (said,)


def trained(project: Path) -> str:
    """Return the hash of the classifier of the trained bundle, which is whole."""
    bundle = Bundle(project / "trained")
    bundle.check(*bundle.card.sha256)
    return bundle.card.sha256[CLASSIFIER]


def names(project: Path, path: str) -> set[str]:
    """Return the names of a path that a message may have: its own, and that of what is made."""
    name = os.path.relpath(project / path, project)
    final = PARTIAL.sub(r"\1", name)
    made = {step.makes.strip("/") for step in steps() if final.startswith(step.makes)}
    folders = (p for path in (name, final) for p in list(Path(path).parents)[:-2])
    return {name, final, *made, *map(str, folders)}


def lasting(project: Path) -> dict[str, str]:
    """sha256 of the files that are the same after each undisturbed run."""
    found = {}
    for path in project.rglob("*"):
        name = str(path.relative_to(project))
        if "/." not in f"/{name}" and not CHANGING.search(name) and path.is_file():
            state = path.stat()
            found[name] = sha256(path, state.st_ino, state.st_mtime_ns)
    return found


@functools.lru_cache(1000)
def sha256(path: Path, *_: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(folder: Path, seed: int, faults: int) -> None:
    import_everything()
    runs = Runs(folder, seed)
    if not faults:
        runs.killed_at_each_step()
    else:
        runs.undisturbed()
    for number in itertools.count(1):
        if runs.faults.total() >= faults or len(runs.wrong) >= MANY:
            break
        runs.run(number)
    seen = {"runs": number - 1, "faults": runs.faults, "codes": runs.codes, "old": runs.old}
    print(json.dumps({**seen, "wrong": runs.wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
