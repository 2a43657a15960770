"""A run of two samples whose results and tables are made up: what the tests of a plan change."""

from pathlib import Path
from typing import Any

from harness import BUNDLE

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import InputError
from virnuc_rules.files.made import touch
from virnuc_rules.planning.plan import Plan
from virnuc_rules.queue.store import ATTEMPTS, Failure, Store

OPEN = "ATGGCCAAGGAC" * 100  # no stop in any frame


class Run:
    """Samples `a` and `b` of three contigs; a step is what its command leaves on the disk."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path, self.files = folder, {name: folder / f"{name}.fa" for name in ("a", "b")}
        for number, file in enumerate(self.files.values()):
            bases = (OPEN[12 * number + 3 * n :] for n in range(3))
            file.write_text("".join(f">{n}\n{text}\n" for n, text in enumerate(bases)))
        self.sheet = folder / "samples.tsv"
        self.write_sheet()
        fields = {"samples": self.sheet, "results": folder / "results", "bundle": BUNDLE}
        self.config = Config.of(**{**fields, "window": 500, "chunk_size": 8, **settings})
        self.folder, self.store = RunFolder(folder / "results"), Store(folder / "results")

    def write_sheet(self, *columns: str) -> None:
        rows = ["\t".join(["sample", "path", *columns])]
        rows += ["\t".join([name, str(file), *columns]) for name, file in self.files.items()]
        self.sheet.write_text("\n".join([*rows, ""]))

    def plan(self) -> Plan:
        return Plan(self.config, read_sheet(self.sheet))

    def settled(self) -> Plan:
        plan = self.plan()
        plan.settle()
        return plan

    def looked_at(self) -> Plan:
        plan = self.plan()
        plan.look()
        return plan

    def chunk(self, *samples: str) -> None:
        """Chunk samples; one whose file cannot be used has a problem."""
        for sample in samples or self.files:
            product, folder = self.plan().chunks(sample), self.folder.chunks(sample)
            seen, files = product.look(), [self.files[sample]]
            try:
                manifest = write_chunks(files, folder.path, self.config.chunking, sample=sample)
            except InputError as error:
                product.finish(seen, [], None, problem=str(error))
            else:
                made = folder.files([entry.file for entry in manifest.chunks])
                product.finish(seen, made, None)

    def tasks(self, sample: str) -> list[Task]:
        return list(Tasks.of(self.config.run, self.config.embedding).of_sample(sample))

    def embed(self, *samples: str) -> None:
        """Write results of the right length."""
        for sample in samples or self.files:
            for task in self.tasks(sample):
                path = self.store.result(task.key)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(8) + bytes(task.entry.open_frames * self.row()))

    def row(self) -> int:
        """Bytes of the embeddings of an open frame."""
        card = self.plan().card
        assert card
        return 4 * (card.dnabert_s.hidden_size + card.esm2.hidden_size)

    def fail(self, task: Task) -> None:
        words = {"error": "x", "traceback": "", "worker": "0", "host": "h", "log": ""}
        failure = Failure(key=task.key, task=task.name, attempts=ATTEMPTS, **words)
        self.store.failures.mkdir(parents=True, exist_ok=True)
        self.store.attempt(task.key, ATTEMPTS).write_text(failure.model_dump_json())

    def predict(self, *samples: str) -> None:
        """Write tables, whatever is in them."""
        for sample in samples or self.files:
            product, folder = self.looked_at().tables(sample), self.folder.sample(sample)
            assert product
            for path in folder.files():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x\n")
            product.finish([], folder.files(), None)

    def finish_all(self) -> None:
        """Also what is made of all samples."""
        self.finish()
        for make, files in (
            (Plan.viruses, self.folder.viruses.files()),
            (Plan.report, self.folder.report.files()),
        ):
            product = make(self.looked_at())
            assert product
            for path in files:
                touch(path)
            product.finish(product.look(), files, None)

    def finish(self) -> None:
        """Do all of it."""
        self.chunk()
        self.embed()
        self.predict()
