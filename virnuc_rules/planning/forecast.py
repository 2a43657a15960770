"""What a run will embed, and why: said before a day of GPU time is spent on it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.files.made import is_absent, read_made
from virnuc_rules.planning.plan import Plan, SamplePlan
from virnuc_rules.queue.store import Store

_SHOWN = 5  # names in a line


@dataclass
class Forecast:
    """The samples by what is left to do, and the chunks to embed by reason."""

    up_to_date: list[str] = field(default_factory=list)
    to_predict: list[str] = field(default_factory=list)  # chunked; tables are to be made
    to_chunk: list[str] = field(default_factory=list)
    of_other_version: list[str] = field(default_factory=list)  # those of 0.1 among them
    problems: list[str] = field(default_factory=list)  # of samples that cannot be used
    archived: list[str] = field(default_factory=list)  # files that are gone
    chunks: Counter[str] = field(default_factory=Counter)  # to embed, by reason
    open_frames: int = 0  # in these
    at_most: bool = False  # the bundle is to be made: results of the same one may be there
    for_evaluate: int = 0  # more chunks, of samples with tables
    for_train: int = 0  # the same; of all samples where only scores were kept

    def lines(self) -> Iterator[str]:
        """Yield what a user reads."""
        samples = sum(map(len, (self.up_to_date, self.to_predict, self.to_chunk, self.problems)))
        yield f"{len(self.up_to_date):,} of {samples:,} samples are up to date"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.chunks.most_common())
        total = sum(self.chunks.values())
        detail = f" with {self.open_frames:,} open frames ({reasons})" if total else ""
        most = "at most " if self.at_most and total else ""
        if total or not self.to_chunk:
            yield f"to embed: {most}{total:,} chunks{detail}"
        if self.for_train == self.for_evaluate and self.for_train:
            yield f"to embed for `train` and `evaluate`: {self.for_train:,} chunks more"
        else:
            for command, more in (("train", self.for_train), ("evaluate", self.for_evaluate)):
                if more:
                    yield f"to embed for `{command}`: {more:,} chunks more"
        if self.to_chunk:
            yield f"to chunk first, so not counted: {_names(self.to_chunk)}"
        if self.of_other_version:
            yield (
                f"of VirNuc 0.1: {_names(self.of_other_version)}: their tables stay until new ones "
                "are made; none of its embeddings is used again, and all may be deleted"
            )
        if self.archived:
            yield f"gone, and not needed: {_names(self.archived)}"
        yield from (f"cannot be used: {problem}" for problem in self.problems)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def forecast(plan: Plan) -> Forecast:
    """Summarise a plan that has been looked at."""
    result, seen = Forecast(at_most=plan.card is None), set[str]()
    failed = Store(plan.config.run.results).failed(
        task.key for state in plan.samples.values() for task in state.lacking
    )
    for sample, state in plan.samples.items():
        _add_sample(result, plan, sample, state)
        more = len(state.unembedded) - (0 if state.is_final else len(state.lacking))
        result.for_train += more
        if state.is_final:
            result.for_evaluate += len(state.lacking)
            continue
        for key, open_frames in _to_embed(plan, sample, state):
            if key not in seen:  # equal chunks are embedded once
                seen.add(key)
                why = "failed before" if key in failed else _reason(plan, sample, state)
                result.chunks[why] += 1
                result.open_frames += open_frames
    return result


def _add_sample(result: Forecast, plan: Plan, sample: str, state: SamplePlan) -> None:
    if state.chunks is None:
        result.to_chunk.append(sample)
        if _has_chunks_without_record(plan, sample):
            result.of_other_version.append(sample)
        return
    if state.problem:
        result.problems.append(state.problem)
        return
    (result.up_to_date if state.is_final else result.to_predict).append(sample)
    result.archived += [str(path) for path in state.files if is_absent(path)]


def _to_embed(plan: Plan, sample: str, state: SamplePlan) -> list[tuple[str, int]]:
    """Return a name and the open frames of each chunk to embed; equal chunks have one name."""
    if plan.card or state.chunks is None or state.problem:
        return [(task.key, task.entry.open_frames) for task in state.lacking]
    # The bundle is made in this run: no key is known, and all chunks will be embedded.
    chunks = read_manifest(plan.folder.chunks(sample)).chunks
    return [(entry.sha256, entry.open_frames) for entry in chunks]


def _reason(plan: Plan, sample: str, state: SamplePlan) -> str:
    """Return why chunks of a sample lack results, by what its last tables were made of."""
    made = read_made(plan.folder.sample(sample).made)
    if made is None or state.chunks is None or made.of.get("chunks") != state.chunks.key:
        return "new"
    if plan.card is None:
        return "of a bundle that is made first"
    if made.of.get("networks") != plan.card.fingerprint:
        return "other bundle"
    now, before = plan.config.embedding.model_dump(mode="json"), made.of.get("embedding", {})
    changed = [key for key, value in now.items() if before.get(key) != value]
    if not (changed or plan.config.run.keep_embeddings):
        changed = ["classifier"] * (made.of.get("bundle") != plan.card.prediction_fingerprint)
    return f"other {' and '.join(changed)}" if changed else "missing result"


def _has_chunks_without_record(plan: Plan, sample: str) -> bool:
    """Tell whether a sample was chunked by a version that wrote no made.json."""
    folder = plan.folder.chunks(sample)
    return folder.manifest.exists() and not folder.made.exists()
