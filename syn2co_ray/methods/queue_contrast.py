"""Contrast against a queue: what MoCo v2, MoBY and their forms with synthesized negatives share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Generator, Tensor

from syn2co_ray.spec.errors import Fault, SpecError
from syn2co_ray.spec.method import MobySpec, MocoSpec
from syn2co_ray.spec.negatives import NegativesSpec

from .branches import Branches, TwoBranches
from .compat import active_epochs, published_negatives, start_queue
from .contract import StepContext
from .draws import Draws, RowDraws, seed_of
from .losses import info_nce, softmax_mass
from .momentum import MomentumUpdate
from .negatives import HardestPool, draw_negatives, synthesized_logits
from .queue import FeatureQueue


class QueueContrast(TwoBranches):
    """Two branches, and the loss of a query against its positive, a queue and synthesized negatives."""

    def __init__(
        self,
        branches: Branches,
        momentum: MomentumUpdate,
        spec: MobySpec | MocoSpec,
    ) -> None:
        """SpecError: negatives where the framework has none, none where it needs some, or too many."""
        super().__init__(branches, momentum)
        self.temperature = spec.temperature
        _check_negatives(spec)
        self.negatives = published_negatives(spec, spec.negatives) if spec.negatives else None
        self.active_epochs = active_epochs(spec, self.negatives) if self.negatives else None
        self._uncommitted: tuple[int, Tensor] | None = None

    def active(self, step: StepContext) -> bool:
        """Whether a step has synthesized negatives."""
        return self.active_epochs is not None and self.active_epochs.include(step)

    def draw(self, purpose: str, pool: HardestPool, draws: RowDraws) -> dict[str, Draws]:
        """The random part of the negatives of one direction: kind -> its draws."""
        return draw_negatives(draws, purpose, pool.q.shape[1], self._negatives())

    def contrast(
        self, purpose: str, q: Tensor, k: Tensor, queue: Tensor, step: StepContext, draws: RowDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of each query, (n,), with its telemetry.

        Args:
            purpose: what the draws are for, such as "view_1"; unique within the step.
            q: queries, unit rows (n, C), with gradient.
            k: their positives, unit rows (n, C).
            queue: past keys, (K, C).
            step: the step; says whether synthesized negatives are active.
            draws: source of the draws.
        """
        positive = (q * k).sum(dim=1)
        similarity = q @ queue.T
        kinds: Mapping[str, Tensor] = {}
        if self.active(step):
            negatives = self._negatives()
            pool = HardestPool.of(q, queue, similarity, negatives.hardest)
            kinds = synthesized_logits(pool, self.draw(purpose, pool, draws), negatives)
        loss = info_nce(positive, [similarity, *kinds.values()], self.temperature)
        stats = {"positive/logit": positive.detach().mean()}
        blocks = {"queue": similarity, **{f"negatives/{name}": logits for name, logits in kinds.items()}}
        for name, block in blocks.items():
            logits = block.detach()
            stats[f"{name}/logit"] = logits.mean()
            stats[f"{name}/logit_max"] = logits.amax()
            stats[f"{name}/harder"] = (logits > positive.detach().unsqueeze(1)).float().mean()
            stats[f"{name}/mass"] = softmax_mass(loss, positive, block, self.temperature)
        return loss, stats

    def uncommitted_keys(self, step: StepContext) -> Tensor:
        """The keys of this step's forward pass, for the queue; they are handed out once.

        Raises:
            RuntimeError: there was no such pass.
        """
        if self._uncommitted is None or self._uncommitted[0] != step.step:
            raise RuntimeError(f"commit of step {step.step} without its forward pass")
        keys = self._uncommitted[1]
        self._uncommitted = None
        return keys

    def _negatives(self) -> NegativesSpec:
        if self.negatives is None:
            raise RuntimeError("a framework without synthesized negatives was asked for some")
        return self.negatives


def _check_negatives(spec: MobySpec | MocoSpec) -> None:
    synthesizing, negatives = spec.framework in ("synby", "synco"), spec.negatives
    where, size = "method.negatives", spec.queue_size_features
    if synthesizing and negatives is None:
        got, step = "missing", "add them, such as {hardest: 256, mixup: 128}"
        raise SpecError([Fault(where, f"{got}, but framework {spec.framework} needs them", next_step=step)])
    if not synthesizing and negatives is not None:
        got, step = f"given, but framework {spec.framework} has none", "use synby or synco, or leave them out"
        raise SpecError([Fault(where, got, next_step=step)])
    if negatives is not None and negatives.hardest > size:
        got, allowed = f"{negatives.hardest}, more than the queue holds", f"1 to {size} (queue_size_features)"
        raise SpecError([Fault(f"{where}.hardest", got, allowed)])


def build_queue(spec: MobySpec | MocoSpec, name: str, seed: int) -> FeatureQueue:
    """A queue of random directions, as a function of the arguments alone."""
    generator = Generator().manual_seed(seed_of(seed, name))
    queue = FeatureQueue(spec.queue_size_features, spec.output_features, generator)
    start_queue(spec, queue, seed)
    return queue
