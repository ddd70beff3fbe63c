"""Contrast against a queue: what MoCo v2, MoBY and their forms with synthesized negatives share."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.method import MobySpec, MocoSpec
from syn2co_ray.spec.negatives import NegativesSpec
from syn2co_ray.spec.rules.framework import negatives_fit_the_framework

from .branches import Branches, TwoBranches
from .collective import gather_rows
from .compat import active_epochs, published_negatives, start_queue
from .contract import StepContext
from .draws import Draws, RowDraws, seed_of
from .momentum import MomentumUpdate
from .negatives import HardestPool, Observed, Synthesized, draw_negatives, log_sum_exp, synthesize
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
        if faults := list(negatives_fit_the_framework(spec)):
            raise SpecError(faults)
        self.negatives = published_negatives(spec, spec.negatives) if spec.negatives else None
        self.active_epochs = active_epochs(spec, self.negatives) if self.negatives else None
        self._uncommitted: tuple[int, Tensor, Tensor | None] | None = None

    def active(self, step: StepContext) -> bool:
        """Whether a step has synthesized negatives."""
        return self.active_epochs is not None and self.active_epochs.include(step)

    def draw(self, purpose: str, pool: HardestPool, draws: RowDraws) -> dict[str, Draws]:
        """The random part of the negatives of one direction: kind -> its draws."""
        return draw_negatives(draws, purpose, pool.q.shape[1], self._negatives())

    def contrast(
        self,
        purpose: str,
        q: Tensor,
        k: Tensor,
        queue: FeatureQueue,
        step: StepContext,
        draws: RowDraws,
        labels: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of each query (van den Oord et al., arXiv 1807.03748, eq. 4), (n,), with its telemetry.

            -log softmax([q.k, q.Q, q.S] / temperature)[0]

        Args:
            purpose: what the draws are for, such as "view_1"; unique within the step.
            q: queries, unit rows (n, C), with gradient.
            k: their positives, unit rows (n, C).
            queue: past keys Q.
            step: the step; says whether synthesized negatives S are active.
            draws: source of the draws.
            labels: classes of the queries, (n,), for telemetry.
        """
        positive = (q * k).sum(dim=1)
        observed = Observed(positive.detach(), labels, queue.labels) if step.telemetry else None
        active = self.negatives if self.active(step) else None
        widest = active.noise.count if active and active.noise.draw == "full" else 0

        def made(pool: HardestPool, part: RowDraws) -> dict[str, Synthesized]:
            assert active is not None
            return synthesize(pool, self.draw(purpose, pool, part), active)

        negatives = log_sum_exp(
            q,
            (queue.features, queue.squared_lengths),
            self.temperature,
            draws,
            hardest=active.hardest if active else 0,
            synthesize=made if active else None,
            widest=widest,
            observed=observed,
        )
        loss = (
            torch.logaddexp(negatives.log_sum_exp, positive / self.temperature) - positive / self.temperature
        )
        stats = {"positive/logit": positive.detach().mean()}
        not_positive = -torch.expm1(-loss.detach())
        for name, figures in negatives.telemetry.items():
            block = name if name == "queue" else f"negatives/{name}"
            figures["mass"] = figures["mass"] * not_positive
            for figure, values in figures.items():
                reduced = values.amax() if figure == "logit_max" else values.nanmean()
                stats[f"{block}/{figure}"] = reduced
        return loss, stats

    def keep_keys(self, keys: Tensor, labels: Tensor | None, step: StepContext) -> None:
        """Gather this rank's keys (n, ...) and labels (n,) from all ranks and keep them until `commit`."""

        def gathered(rows: Tensor) -> Tensor:
            return gather_rows(rows, step.first_row, step.images_per_step_global, step.group)

        self._uncommitted = (step.step, gathered(keys), None if labels is None else gathered(labels))

    def kept_keys(self, step: StepContext) -> tuple[Tensor, Tensor | None]:
        """The global batch's keys (and labels) of this step's forward pass; they are handed out once.

        Raises:
            RuntimeError: there was no such pass.
        """
        if self._uncommitted is None or self._uncommitted[0] != step.step:
            raise RuntimeError(f"commit of step {step.step} without its forward pass")
        _, keys, labels = self._uncommitted
        self._uncommitted = None
        return keys, labels

    def _negatives(self) -> NegativesSpec:
        if self.negatives is None:
            raise RuntimeError("a framework without synthesized negatives was asked for some")
        return self.negatives


def build_queue(spec: MobySpec | MocoSpec, name: str, seed: int) -> FeatureQueue:
    """A queue of random directions, as a function of the arguments alone."""
    generator = Generator().manual_seed(seed_of(seed, name))
    queue = FeatureQueue(spec.queue_size_features, spec.output_features, generator)
    start_queue(spec, queue, seed)
    return queue
