"""Whether a run after an edit gives what one from nothing gives: projects, references, comparison.

A `Reference` is the run from nothing with the same settings, sheet and inputs. Everything that may
differ between the two is taken out in `content`, and nowhere else.
"""

import copy
import hashlib
import itertools
import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import BUNDLE, Project, embedded_chunks, jobs, sha256
from safetensors.torch import load_file, save_file

from virnuc_rules.config.run_folder import DONE, MADE, RunFolder
from virnuc_rules.models import card
from virnuc_rules.models.bundle import rewrite_card

if TYPE_CHECKING:
    from edits import Edit

# Settings of how the work is done. A reference has the first value of each.
HOW = {"persistent_models": True, "workers": 1, "lease_seconds": 2.0, "threads": 1}
LENGTHS = {"a": (800, 1200, 300), "b": (700, 1500, 250), "c": (900, 400)}
SETTINGS = {"bundle": "bundle", "chunk_size": 10}
_STOPS = ("TAA", "TAG", "TGA", "CTA", "TTA", "TCA")  # on both strands
ARCHIVED = "a.fa archived"  # the name of an edit
CODONS = [c for c in map("".join, itertools.product("ACGT", repeat=3)) if c not in _STOPS]
STOP = "TTAACTAACTAG"  # in all frames


def sequence(name: str, length: int, salt: str = "") -> str:
    """Bases with open frames on both strands, with calls of both kinds, and some unknown bases."""
    draw, parts = random.Random(f"{name} {length} {salt}"), list[str]()
    for _ in range(0, length, 400):
        few = draw.sample(CODONS, 3)
        parts += draw.choices(few, k=134)
    bases, unknown = "".join(parts)[:length], length // 50
    return f"{bases[:99]}{'N' * unknown}{bases[99 + unknown :]}"


def write_sample(path: Path, name: str, salt: str = "") -> None:
    """Contigs of random bases, and one without an open frame."""
    contigs = [sequence(name, length, salt) for length in LENGTHS[name]]
    contigs[-1] = (STOP * len(contigs[-1]))[: len(contigs[-1])]
    rows = (f">{name}{number}\n{bases}\n" for number, bases in enumerate(contigs))
    path.write_text("".join(rows))


def new_project(folder: Path, **settings: Any) -> Project:
    """Two small samples, with all paths relative: no result knows its folder."""
    shutil.copytree(BUNDLE, folder / "bundle")
    for name in ("a", "b"):
        write_sample(folder / f"{name}.fa", name)
    return Project(folder, {n: Path(f"{n}.fa") for n in "ab"}, **{**SETTINGS, **settings})


def change_bundle(folder: Path, network: str) -> None:
    """Make it another bundle: weights of one of its networks have other signs."""
    weights = load_file(folder / network)
    for tensor in weights.values():
        if tensor.ndim == 2:
            tensor *= -1
    save_file(weights, folder / network)
    rewrite_card(folder)


def copied(project: Project, folder: Path, *, results: bool = True) -> Project:
    """A copy of a project: files keep their times. Without results it is one from nothing."""
    kept = None if results else shutil.ignore_patterns("results", ".snakemake")
    shutil.copytree(project.folder, folder, ignore=kept, dirs_exist_ok=True)
    twin = copy.copy(project)
    twin.folder, twin.results = folder, folder / "results"
    twin.paths, twin.settings = RunFolder(twin.results), dict(project.settings)
    twin.samples = dict(project.samples)
    return twin


def state(project: Project) -> str:
    """Hash everything that a run from nothing depends on."""
    settings = {key: value for key, value in project.settings.items() if key not in HOW}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(project.folder.rglob("*")):
        name = path.relative_to(project.folder)
        if path.is_file() and name.parts[0] not in ("results", ".snakemake", "config.yaml"):
            digest.update(f"{name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def products(project: Project) -> Iterator[Path]:
    """Every file that the samples of the sheet and the report have, but empty outputs."""
    paths, rows = project.paths, (project.folder / "samples.tsv").read_text().splitlines()[1:]
    samples = {row.split("\t")[0] for row in rows}
    folders = [path for s in samples for path in (paths.sample(s).path, paths.chunks(s).path)]
    for folder in (*folders, paths.report.made.parent, paths.report.multiqc_calls.parent):
        yield from (p for p in folder.rglob("*") if p.is_file() and p.name != DONE)
    of_report = (paths.report.page, paths.report.summary, paths.report.provenance)
    files = (paths.config, *paths.viruses.files(), paths.viruses.made, *of_report)
    yield from (path for path in files if path.exists())


def content(project: Project, path: Path) -> bytes:
    """Return the content of a file without what is of the moment, or of how the work was done.

    That is: times, commands, folder and workers on the page and in its provenance, sizes, times and
    hashes of files in `made.json`, and the settings in HOW. All else must have equal bytes.
    """
    if path == project.paths.report.page:
        page = path.read_text()
        for part in (
            r" · [-\d]+ [\d:]+ UTC",
            r"<section><h2>Workers</h2>.*?</section>",
            r"<h3>Commands</h3>.*?(?=<h3>)",
        ):
            page = re.sub(part, "", page, count=1, flags=re.DOTALL)
        return _without_how(page).encode()
    if path == project.paths.config:
        return _without_how(re.sub(": /.*/", ": ", path.read_text())).encode()  # folders
    if path == project.paths.report.provenance:
        data = json.loads(path.read_text())
        for key in ("made", "commands", "folder", "computed"):
            del data[key]
        for key in HOW:
            del data["config"][key]
        return json.dumps(data).encode()
    if path.name.endswith(MADE):
        data = json.loads(path.read_text())
        data["files"] = sorted(data["files"])
        data["inputs"] = [seen["sha256"] for seen in data["inputs"]]
        for key in HOW:
            data["of"].get("settings", {}).pop(key, None)
        return json.dumps(data).encode()
    return path.read_bytes()


def _content(project: Project, path: Path) -> bytes:
    try:
        return content(project, path)
    except json.JSONDecodeError:  # damaged by an edit
        return path.read_bytes()


def _without_how(text: str) -> str:
    return re.sub(rf"^({'|'.join(HOW)}): .*\n", "", text, flags=re.MULTILINE)


def contents(project: Project) -> dict[str, bytes]:
    """Return all products by their paths below the results."""
    found = products(project)
    return {str(path.relative_to(project.results)): _content(project, path) for path in found}


def problems(project: Project, output: str) -> set[str]:
    """Return the lines that say why a run failed: of the plan, and of rule `check`."""
    lines = set(re.findall(r"^WorkflowError in .*:\n(.*)", output, re.MULTILINE))
    log = project.paths.log("check")
    text = log.read_text() if log.exists() else ""
    return lines | set(re.findall(r"^\S+ \S+ ERROR (.*)", text, re.MULTILINE))


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    code: int
    problems: set[str]
    products: dict[str, bytes]
    output: str


def run(project: Project) -> Outcome:
    done = project.run()
    found = problems(project, done.stdout)
    return Outcome(done.returncode, found, contents(project), done.stdout)


@dataclass
class References:
    """Runs from nothing, each made once."""

    folder: Path
    known: dict[str, Outcome] = field(default_factory=dict)

    def of(self, project: Project) -> Outcome:
        """Run what a project is, in a folder of its own."""
        key = state(project)
        if key not in self.known:
            twin = copied(project, self.folder / key, results=False)
            twin.settings |= HOW
            self.known[key] = run(twin)
            shutil.rmtree(twin.folder)
        return self.known[key]


def assert_converged(before: dict[str, bytes], after: Outcome, reference: Outcome) -> None:
    """All is as from nothing. Only what a failed run could not make may be older, and is not lost.

    before: the products after the edit, before the run.
    """
    assert (after.code, after.problems) == (reference.code, reference.problems), after.output
    made = reference.products.keys()
    differing = [p for p in sorted(made) if after.products.get(p) != reference.products[p]]
    shown = [_difference(after.products.get(p), reference.products[p]) for p in differing]
    assert not differing, f"{list(zip(differing, shown, strict=True))}\n{after.output}"
    older = {path: after.products[path] for path in after.products.keys() - made}
    if reference.code == 0:
        assert not older, sorted(older)
    else:
        assert older == {path: before[path] for path in before.keys() - made}, after.output


def _difference(found: bytes | None, expected: bytes) -> tuple[bytes, bytes]:
    """Return some bytes of both from where they differ."""
    if found is None:
        return b"not there", b""
    pairs = enumerate(zip(found, expected, strict=False))
    first = next((i for i, (x, y) in pairs if x != y), min(len(found), len(expected)))
    return found[first - 30 : first + 70], expected[first - 30 : first + 70]


def halve(path: Path) -> None:
    """Cut a file in the middle, as a crash of the machine may."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


NETWORKS = {"classifier": card.CLASSIFIER, "networks": card.ESM2}


def check(
    start: Project, folder: Path, references: References, *edits: "Edit", embeds: str | None = None
) -> None:
    """Edit a copy of a finished run, run once, and compare with a run from nothing."""
    project = copied(start, folder)
    for edit in edits:
        edit.apply(project)
    before, whole = contents(project), project.folder / "a.fa"
    after = run(project)
    # An archived file counts as it was, unless it must be read again.
    if ARCHIVED in [edit.name for edit in edits] and not any(edit.chunks for edit in edits):
        shutil.copy2(start.folder / "a.fa", whole)
        reference = references.of(project)
        whole.unlink()
    else:
        reference = references.of(project)
    assert_converged(before, after, reference)
    if embeds is not None and project.settings["persistent_models"]:
        assert embedded_chunks(after.output) == chunks_of(project, embeds)
    if after.code == 0:
        assert_is_finished(project, after)


def chunks_of(project: Project, samples: str) -> int:
    folders = (project.paths.chunks(sample) for sample in samples)
    return sum(len(folder.chunk_files()) for folder in folders)


def assert_is_finished(project: Project, after: Outcome) -> None:
    """Nothing is left to do, and nothing is left over."""
    assert project.failures() == project.left_over() == []
    again = project.run()
    assert (again.returncode, jobs(again.stdout)) == (0, {}), again.stdout
    assert contents(project) == after.products
