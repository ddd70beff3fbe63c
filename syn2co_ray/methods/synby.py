"""SynBY: MoBY with synthesized negatives in both directions.

Giakoumoglou et al. (SynCo-v2), arXiv 2509.02024. Each query meets, beside its positive and the queue, the
negatives synthesized from its hardest queue entries (negatives/), which carry no gradient of their own.
Trained on real and generated images together it is Syn2Co (arXiv 2509.02029); the data decides that.

Departure from the published code: synthesized negatives are active in the epochs of `active_epochs`, first
and last included, counted from 0 in real epochs of the run. The code counts the epochs of one worker's share
of the images by steps of the whole batch, so that on W workers "30 to 100" means epochs 30 W to 100 W, and
it switches one step early. It also sets its own counts (128, 128, 128, 64, 64, 64) over those of its
configuration, and one kind's count can switch off another; here a count is what the spec says.
"""

from __future__ import annotations

from torch import Tensor

from syn2co_ray.spec.errors import Fault, SpecError
from syn2co_ray.spec.method import MobySpec
from syn2co_ray.spec.negatives import NegativesSpec

from .contract import StepContext
from .draws import Draws, RowDraws
from .moby import MoBY, Networks, build_networks
from .negatives import HardestPool, draw_negatives, synthesized_logits


class SynBY(MoBY):
    """See the module."""

    def __init__(
        self, networks: Networks, temperature: float, momentum_base: float, negatives: NegativesSpec
    ) -> None:
        super().__init__(networks, temperature, momentum_base)
        self.negatives = negatives

    def active(self, epoch: int) -> bool:
        """Whether this epoch (from 0) has synthesized negatives."""
        epochs = self.negatives.active_epochs
        return epochs is None or epochs[0] <= epoch <= epochs[1]

    def synthesized_logits(
        self, purpose: str, q: Tensor, queue: Tensor, similarity: Tensor, step: StepContext, draws: RowDraws
    ) -> dict[str, Tensor]:
        """Kind -> (n, count) logits before temperature; none outside the active epochs."""
        if not self.active(step.epoch):
            return {}
        pool = HardestPool.of(q, queue, similarity, self.negatives.hardest)
        return synthesized_logits(pool, self.draw(purpose, pool, draws), self.negatives)

    def draw(self, purpose: str, pool: HardestPool, draws: RowDraws) -> dict[str, Draws]:
        """The random part of the negatives of one direction: kind -> its draws."""
        return draw_negatives(draws, purpose, pool.q.shape[1], self.negatives)


def build(spec: MobySpec, image_size: int, seed: int) -> SynBY:
    """SynBY as the spec says.

    Raises:
        SpecError: no section `negatives`, or a pool of hardest entries larger than the queue.
    """
    if spec.negatives is None:
        fault = Fault(
            "method.negatives",
            "missing, but framework synby needs it",
            next_step="add it, such as {hardest: 256, mixup: 128}, or set method.framework to moby",
        )
        raise SpecError([fault])
    if spec.negatives.hardest > spec.queue_size_features:
        fault = Fault(
            "method.negatives.hardest",
            f"{spec.negatives.hardest}, more than the queue holds",
            f"1 to {spec.queue_size_features} (method.queue_size_features)",
        )
        raise SpecError([fault])
    networks = build_networks(spec, image_size, seed)
    return SynBY(networks, spec.temperature, spec.momentum, spec.negatives)
