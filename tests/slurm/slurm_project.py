"""A project that runs on the cluster of the tests."""

import json
import re
import shutil

import psutil
from harness import BIN, REPO, Project


class SlurmProject(Project):
    """What a user types on a cluster: the literal profile, and a site's own on top of it."""

    runtime = 30  # minutes that a worker's job may last
    retries = 1
    forked = False  # Slurm's jobs are no children of the tests

    def command(self, *arguments: str) -> list[str]:
        (self.folder / "config.yaml").write_text(json.dumps(self.settings))
        gpu = {"slurm_partition": "gpu", "gpu": 1, "mem_mb": 2000, "runtime": self.runtime}
        profile = {
            "default-resources": {"slurm_partition": "cpu", "mem_mb": 1000, "runtime": 30},
            "set-resources": {"serve": gpu},
            "retries": self.retries,
            "latency-wait": 10,
            "seconds-between-status-checks": 1,
            "slurm-init-seconds-before-status-checks": 1,
        }
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "config.v9+.yaml").write_text(json.dumps(profile))
        link = self.folder / "slurm"
        if not link.exists():
            link.symlink_to(REPO / "slurm")
        return [
            str(BIN / "snakemake"), "--profile", "slurm", "--workflow-profile", "site",
            "--snakefile", str(REPO / "workflow" / "Snakefile"), "--configfile", "config.yaml",
            *arguments,
        ]  # fmt: skip

    def copy_chunks(self, other: Project) -> None:
        """Begin where the samples are chunked; the files keep their times."""
        shutil.copytree(other.paths.chunk_folders, self.paths.chunk_folders)

    def logs(self, worker: int) -> list[str]:
        """Return what each attempt of a worker logged, the first attempt first."""
        return [path.read_text() for path in sorted(self.results.glob(f"logs/serve/{worker}.a*"))]

    def embedded(self) -> int:
        """Count the chunks that were embedded, in all attempts of all workers."""
        logs = (path.read_text() for path in self.results.glob("logs/serve/*.attempt-*.log"))
        line = re.compile(r"chunk \d+ of \d+: \S+: [\d.]+ s$", re.MULTILINE)
        return sum(len(line.findall(log)) for log in logs)

    def workers(self) -> list[psutil.Process]:
        """Return the workers of this project that live."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            serves = words[1:3] == [str(BIN / "virnuc-rules"), "serve"]
            if serves and process.info["cwd"] == str(self.folder):
                found.append(process)
        return found
