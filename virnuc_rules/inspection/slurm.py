"""Whether Slurm would take the jobs of a profile."""

import itertools
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from virnuc_rules.inspection.finding import Finding, Site, ask

_GPU_RULES = ("serve", "embed_chunk")


def slurm(site: Site) -> Iterator[Finding]:
    """Ask Slurm whether it would take the jobs of the profile; nothing is submitted."""
    if not shutil.which("sbatch"):
        yield Finding(level="note", check="Slurm", found="no sbatch here, not checked")
        return
    profile = site.profile or next(
        filter(Path.exists, map(Path, ("slurm", "profiles/slurm"))), None
    )
    if profile is None:
        yield Finding.of("Slurm", "no profile here, not checked", "say --profile DIR", "note")
        return
    listed = ask("sinfo", "-h", "-o", "%R %l")
    if listed.returncode:
        found = f"does not answer: {' '.join(listed.stderr.split())}"
        yield Finding.of("Slurm", found, "is this a login node?", "FAILED")
        return
    limits = {name: _minutes(limit) for name, limit in map(str.split, listed.stdout.splitlines())}
    path = profile / "config.v9+.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    default, rules = settings.get("default-resources", {}), settings.get("set-resources", {})
    jobs = {"default": {}, **rules, "serve": rules.get("serve", {})}
    for rule, own in jobs.items():
        threads = site.config.compute.threads if rule in _GPU_RULES else 1
        finding = _job(
            rule, _request(default, own, rule, threads), limits, site.config.compute.device
        )
        if finding.level == "FAILED":
            finding.remedy += f"; change {path}, or add a profile of your own (docs/clusters.md)"
        yield finding


def _request(default: dict[str, Any], own: dict[str, Any], rule: str, threads: int) -> list[str]:
    """Return the options that Snakemake's plugin would give sbatch, by its own code."""
    from snakemake.resources import Resources  # type: ignore[import-untyped]
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command  # type: ignore[import-untyped]
    from snakemake_executor_plugin_slurm.utils import set_gres_string  # type: ignore[import-untyped]

    def parsed(block: dict[str, Any]) -> Any:
        return Resources.parse([f"{k}={v}" for k, v in block.items()], allow_expressions=True)

    def first_attempt(resource: Any) -> Any:
        given = {"input": (), "attempt": 1, "threads": threads, "rulename": rule, "async_run": None}
        return resource.evaluate(None, **given)

    resources = parsed(default)
    resources.update(parsed(own))
    values = dict(resources.expand_items(constraints={}, evaluate=first_attempt))
    job = SimpleNamespace(resources=SimpleNamespace(**values, get=values.get), threads=threads)
    account, partition = values.get("slurm_account"), values.get("slurm_partition")
    parameters = {
        "run_uuid": "doctor", "slurm_logfile": "none", "comment_str": rule, "workdir": "",
        "account": f"-A {shlex.quote(str(account))}" if account else "",
        "partition": f"-p {shlex.quote(str(partition))}" if partition else "",
    }  # fmt: skip
    words = shlex.split(get_submit_command(job, parameters) + set_gres_string(job))
    return words[words.index("--comment") + 2 :]  # the options before it do not matter here


def _job(rule: str, options: list[str], limits: dict[str, float], device: str) -> Finding:
    check, asked = f"Slurm, jobs of {rule}", " ".join(options)
    answer = ask("sbatch", "--test-only", *options, "--wrap=true")
    if answer.returncode:
        found = f"refused ({asked}): {' '.join(answer.stderr.split())}"
        return Finding.of(check, found, f"the partitions are {', '.join(limits)}", "FAILED")
    given = dict(itertools.pairwise(options))
    runtime, names = float(given.get("-t", 0)), given.get("-p", "").split(",")
    limit = max(limits.get(name, float("inf")) for name in names)
    if runtime > limit:
        found = f"{runtime:.0f} minutes, of {limit:.0f} that partition {given['-p']} gives"
        return Finding.of(check, found, "lower `runtime`", "FAILED")
    has_gpu = any(option.startswith(("--gpu", "--gres=gpu")) for option in options)
    needs_gpu = rule in _GPU_RULES and device != "cpu"
    remedy = "no GPU: `gpu: 1` asks for one (not `gpus`)" if needs_gpu and not has_gpu else ""
    return Finding.of(check, f"accepted ({asked})", remedy)


def _minutes(limit: str) -> float:
    """Parse a time limit of sinfo: [days-][[hours:]minutes:]seconds, or infinite."""
    if not limit[0].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = ([0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + seconds / 60
