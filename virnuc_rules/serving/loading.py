"""Loading a worker's models: once, recorded in its report."""

import logging
import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnuc_rules.bundles.verified import read_verified
from virnuc_rules.config.model import Embedding, WorkerSettings
from virnuc_rules.errors import ModelError, VirnucError, one_line
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.serving.lifetime import Interrupted
from virnuc_rules.serving.worker_report import WorkerReport

if TYPE_CHECKING:  # torch takes seconds to import: a worker without tasks does not import it
    from torch import Tensor

    from virnuc_rules.embedding.embed import Networks
    from virnuc_rules.embedding.embedding_file import Embeddings, Result
    from virnuc_rules.models.bundle import Bundle
    from virnuc_rules.models.classifier import MLPClassifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The resident networks, and the embeddings of the self-check batch right after loading."""

    networks: "Networks"
    settings: Embedding
    expected: "Tensor"
    bundle: Path
    classifier: "MLPClassifier | None"  # where scores are kept

    def kept(self, embeddings: "Embeddings") -> "Callable[[], Result]":
        """Return a function that gives what is stored of a chunk: its embeddings, or its scores.

        On a GPU the function computes the scores, so that it can be called while the next chunk is
        embedded. On a CPU they are computed here: the classifier runs in one thread, and the number
        of threads is a setting of the process.
        """
        from virnuc_rules.embedding.scoring import score

        if self.classifier is None:
            return lambda: embeddings
        scores = partial(score, self.classifier, embeddings, self.bundle)
        if self.networks.device.type == "cuda":
            return scores
        computed = scores()
        return lambda: computed

    def device_is_sound(self) -> bool:
        """Tell whether the self-check batch still gives the same embeddings (tolerance 1e-3).

        Raises EnvironmentProblem where there is no memory for it.
        """
        import torch

        from virnuc_rules.embedding.embed import self_check

        try:
            embeddings = self_check(self.networks, self.settings)
            return torch.allclose(embeddings, self.expected, rtol=1e-3, atol=1e-3)
        except Exception as error:
            if problem := environment_problem(error):
                raise problem from error
            return False


class Loader:
    """Loads the models of worker `name`; records device, precision and duration in its report."""

    def __init__(self, settings: WorkerSettings, name: str, report: WorkerReport) -> None:
        self.settings, self.name, self.report = settings, name, report

    def load(self, index: int) -> Loaded:
        """Load both models on the device of the `index`-th worker.

        Raises ModelError, and EnvironmentProblem where memory or a file cannot be had now.
        """
        try:
            return self._load(index)
        except (Interrupted, VirnucError):
            raise
        except BaseException as error:  # a panic in Rust (tokenizers) is not an Exception
            logger.debug("%s", traceback.format_exc())
            problem = environment_problem(error, self.settings.run.bundle)
            raise problem or ModelError(f"{type(error).__name__}: {one_line(error)}") from error

    def _load(self, index: int) -> Loaded:
        import torch

        from virnuc_rules.bundles.staged import StagedBundle
        from virnuc_rules.embedding.embed import Networks, self_check
        from virnuc_rules.models.device import choose_device, choose_precision

        torch.set_num_threads(self.settings.compute.threads)
        self.report.versions["torch"] = torch.__version__
        device = choose_device(self.settings.compute.device, index)
        self.report.device = str(device)
        if device.type == "cuda":
            self.report.device = f"{device} ({torch.cuda.get_device_name(device)})"
        precision = choose_precision(self.settings.embedding.precision, device)
        bundle = StagedBundle(self.settings.run.bundle, self.settings.serving.stage_bundle)
        self._note_precision(bundle, precision, device.type)
        networks = Networks.open(bundle, device, precision, self._timed)
        seconds = sum(self.report.load_seconds.values())
        logger.info(
            "worker %s: loaded both models in %.2f s on %s", self.name, seconds, self.report.device
        )
        embedding = self.settings.embedding
        classifier = None if self.settings.run.keep_embeddings else bundle.open_classifier()
        check = self_check(networks, embedding)
        return Loaded(networks, embedding, check, bundle.folder, classifier)

    def _note_precision(self, bundle: "Bundle", precision: str, device: str) -> None:
        """Record the precision, and warn if it was not verified on this type of device."""
        self.report.precision = precision
        verified = read_verified(bundle.folder, bundle.card.fingerprint)
        self.report.verified = verified.covers(precision, device)
        if not self.report.verified:
            logger.warning(
                "worker %s: precision %s has not been verified on %s with this bundle: "
                "virnuc-rules models verify %s --precision %s --data FASTA",
                self.name, precision, device, shlex.quote(str(bundle.folder)), precision,
            )  # fmt: skip

    def _timed(self, name: str, load: Callable[[], Any]) -> Any:
        start = time.monotonic()
        network = load()
        seconds = time.monotonic() - start
        self.report.load_seconds[name] = round(seconds, 3)
        self.report.load_count[name] = self.report.load_count.get(name, 0) + 1
        logger.debug("worker %s: loaded %s in %.2f s", self.name, name, seconds)
        return network
