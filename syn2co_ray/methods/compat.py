"""Where the published code of SynCo and SynCo-v2 differs from its papers, and what `compat` does about it.

By default (no `compat`) everything here follows the papers. `method.compat: synco_v1` or `synco_v2` trains
as the published code trains. Its parts are of three sorts:

    in the spec     a spec can say it (counts, sigma, schedules, what decays). With `compat` it has to: see
                    `spec.compat`. The resolved spec of a run is what ran.
    below           a spec cannot say it: the epochs' clock, the late learning rate, how queue and ViT start.
    not reproduced  defects that change no training of a run that works, or that make results depend on
                    interruptions; evaluation; packaging.

`DEVIATIONS` is the whole list. It was made by running and reading the code of
giakoumoglou/synco at 79a9c42 (v1) and giakoumoglou/synco-v2 at 61528c5 (v2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, nn

from syn2co_ray.spec.compat import SYNCO_V1, SYNCO_V2, negatives_that_run
from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.method import MethodSpec, MobySpec, MocoSpec
from syn2co_ray.spec.negatives import NegativesSpec

from .contract import StepContext
from .draws import seed_of
from .encoders import use_moco_v3_weights
from .queue import FeatureQueue


@dataclass(frozen=True)
class Deviation:
    """One place where the published code departs from its paper, its documentation or its configuration."""

    name: str
    source: str
    """File, and v1 (SynCo) or v2 (SynCo-v2)."""
    said: str
    """What the paper, documentation or configuration says."""
    done: str
    """What the code does."""
    reproduced: str
    """Which `compat` does it and how, or `no:` and why not."""


DEVIATIONS = (
    Deviation(
        "ignored counts",
        "v2 src/models (model builder)",
        "128 synthesized negatives of each kind (yaml)",
        "the builder does not pass them on; 128, 128, 128, 64, 64, 64 run",
        "synco_v2, in the spec: kinds left out get these counts, another count is a fault",
    ),
    Deviation(
        "crossed switches",
        "v1 synco/builder.py, v2 src/models/synco.py",
        "each kind is made when its own count is above 0",
        "noise is switched by the count of perturbed, and the reverse: without noise, perturbed vanishes; "
        "noise without perturbed crashes",
        "synco_v1, in the spec: such counts are a fault that says what would run. In v2 no count is 0",
    ),
    Deviation(
        "sigma of the noise",
        "v1 synco/builder.py and command line, v2 src/models/synco.py",
        "0.01 (SynCo), configurable",
        "v1: default 0.01, its docstring says 0.1; v2: fixed at 0.1, as are delta and eta at 0.01",
        "both, in the spec: v1 fills in 0.01, v2 refuses other values",
    ),
    Deviation(
        "clock of the active epochs",
        "v2 src/models/synco.py",
        "synthesized negatives are active in epochs 30 to 100",
        "an epoch is counted as images // images_per_gpu steps, not divided by the number of GPUs: on W GPUs "
        "epoch 30 begins in real epoch 30 W",
        "synco_v2: `ActiveEpochs`, with method.compat_world_size as W",
    ),
    Deviation(
        "one iteration early",
        "v2 src/models/synco.py",
        "on from the first to the last iteration of the named epochs",
        "the step is counted before the loss: on and off one iteration early",
        "synco_v2: `ActiveEpochs`",
    ),
    Deviation(
        "start epoch counted twice",
        "v2 src/models/synco.py",
        "training may start at a later epoch",
        "START_EPOCH is in the step counter and is added to it again",
        "no: a run here starts at epoch 0 and resumes exactly where it stopped",
    ),
    Deviation(
        "no last epoch",
        "v1 synco/builder.py",
        "10 epochs of warm-up without synthesized negatives",
        "active from epoch 10 to the end; there is no cool-down",
        "synco_v1, in the spec: a last active epoch before the last epoch is a fault",
    ),
    Deviation(
        "momentum after a resume",
        "v2 src/models/synco.py and pre-training script",
        "momentum rises from 0.99 to 1 over the run",
        "the step counter is not in the checkpoint: a resumed run begins at 0.99 again",
        "no: a result would depend on when the run was interrupted",
    ),
    Deviation(
        "steps of the momentum's cosine",
        "v2 src/models/synco.py",
        "K steps",
        "K = int(images / GPUs / batch) * epochs, the last step uses K - 1, and K = 0 divides by zero",
        "the same by default: K is the number of steps of the run, which is at least 1",
    ),
    Deviation(
        "sum of both directions",
        "v2 src/models/synco.py",
        "loss over both directions",
        "sum of the two batch means, not half of it (BYOL in the same code takes half)",
        "the same by default, as in MoBY",
    ),
    Deviation(
        "step of the extrapolation",
        "v1 synco/builder.py",
        "docstring: n + b (n - q)",
        "q + b (n - q), as in the paper",
        "the same by default: the docstring is what is wrong",
    ),
    Deviation(
        "gradients of the similarity",
        "v1 synco/builder.py, v2 src/models/synco.py",
        "perturbed and adversarial follow the gradient of a similarity",
        "the similarity is a dot product, so the gradient is q itself, found by one autograd call each",
        "the same by default, in closed form",
    ),
    Deviation(
        "queue's first vectors",
        "v1 synco/builder.py",
        "queue of unit vectors",
        "the (K, C) queue is normalised along K: rows of length sqrt(C / K) until they are overwritten",
        "synco_v1: `start_queue`",
    ),
    Deviation(
        "what decays",
        "v2 src/optim (the official MoBY alike), v1 main_synco.py",
        "positions, tokens and bias tables do not decay (the backbones name them)",
        "v2 asks the wrapper, which names none: cls_token and relative_position_bias_table decay, 1-D "
        "parameters and biases do not; v1: everything decays",
        "both, in the spec: train.optimizer.weight_decay_of matrices_and_tokens (v2), all (v1)",
    ),
    Deviation(
        "learning rate one step late",
        "v2 pre-training script",
        "step t has the schedule's value at t",
        "the schedule is stepped after the optimizer: step t has the value at t - 1, steps 0 and 1 that at 0",
        "synco_v2: `learning_rate_steps_late`",
    ),
    Deviation(
        "accumulation",
        "v2 pre-training script",
        "gradients may be accumulated over steps",
        "pre-training does not accumulate, but scales the rate as if it did",
        "no: there is no accumulation here",
    ),
    Deviation(
        "cosine during the warm-up",
        "v2 src/optim",
        "cosine after the warm-up",
        "the cosine's clock runs during the warm-up, so the rate falls a little where it ends; linear and "
        "stepwise schedules are in no published recipe",
        "the same by default (MoBY's recipe); synco_v2 refuses cosine_includes_warmup: false",
    ),
    Deviation(
        "rate by epoch",
        "v1 main_synco.py",
        "cosine",
        "one value an epoch, no warm-up, no minimum, no scaling with the batch, no clipping",
        "synco_v1, in the spec: other optimizer values are faults",
    ),
    Deviation(
        "trained patch projection, drop path by name",
        "v2 configs",
        "names with stopgradconv1 and odpr0",
        "stop_grad_conv1 is false in every yaml; BYOL's odpr0 files inherit a drop path of 0.2",
        "in the spec by default: SynBY has no frozen patch projection, drop_path_online is what is written",
    ),
    Deviation(
        "a ViT-S that is no DeiT-S",
        "v2 src/models (ViT)",
        "DeiT-S",
        "MoCo v3's ViT-S: 12 heads of 32 (DeiT-S: 6 of 64), fixed sine-cosine positions, other first weights",
        "synco_v2: `start_vit`; in the spec: a ViT-S without backbone_options {num_heads: 12} and positions: "
        "sincos is a fault",
    ),
    Deviation(
        "one width",
        "v2 src/models/synco.py",
        "any width of the features",
        "the queues have 256, whatever the heads are told",
        "synco_v2, in the spec: another output_features is a fault",
    ),
    Deviation(
        "epsilon of Swin's norms",
        "v2 src/models (Swin)",
        "1e-5 (official Swin)",
        "1e-6 in all but the second norm of a block; variants with batch norm cannot be reached",
        "no: timm's Swin has 1e-5 throughout; no effect is known",
    ),
    Deviation(
        "defaults against scripts",
        "v1 synco/builder.py and scripts, v2 configs",
        "temperature 0.2, mixed precision",
        "v1: the class defaults to 0.07, its scripts give 0.2; v2: float32 (AMP O0), MoBY: mixed (O1); v1's "
        "help texts swap sigma, delta and eta",
        "in the spec: temperature and precision are what is written",
    ),
    Deviation(
        "pool at least as large as a count",
        "v1 synco/builder.py",
        "members are drawn with replacement",
        "the code nevertheless asserts hardest >= count",
        "the same, always: a count over hardest is a fault of the spec",
    ),
    Deviation(
        "syntax error",
        "v2 src/utils/__init__.py",
        "scripts that start",
        "a parenthesis is missing, so none does; the README names scripts that are not there",
        "no: packaging",
    ),
    Deviation(
        "k-NN evaluation",
        "v2 k-NN script",
        "k-NN over the training set",
        "random crops and flips of the bank, last batch dropped, rows never filled, one shard a GPU",
        "no: evaluation here uses centre crops of the whole bank",
    ),
    Deviation(
        "linear evaluation and retrieval",
        "v2 linear and retrieval scripts",
        "frozen features",
        "drop path 0.2 and label smoothing 0.1 in the probe (MoBY alike); a constant that Pillow 10 dropped",
        "no: evaluation",
    ),
    Deviation(
        "licence",
        "v1 and v2",
        "LICENSE: MIT",
        "README: CC-BY-NC 4.0",
        "no: none of that code is used here",
    ),
)
"""The one table of the published code's deviations."""


def published_negatives(spec: MobySpec | MocoSpec, negatives: NegativesSpec) -> NegativesSpec:
    """The synthesized negatives to make: those of the spec, or with `compat` those the published code makes.

    For a spec that passed `spec.rules` both are the same.

    Raises:
        SpecError: the published code crashes with these counts.
    """
    return negatives if spec.compat is None else negatives_that_run(negatives, spec.compat)


@dataclass(frozen=True)
class ActiveEpochs:
    """When synthesized negatives are made: first <= epoch <= last, from 0; always when `epochs` is None.

    The epoch is the run's own. With `published_gpus` it is that of SynCo-v2's code on so many GPUs,
    (step + 1) // (images // images_per_gpu), whatever the number of our workers.
    """

    epochs: tuple[int, int] | None
    published_gpus: int | None = None

    def include(self, step: StepContext) -> bool:
        """Whether this step makes synthesized negatives.

        Raises:
            Syn2coError: the published epoch is asked for without `data.images_per_epoch`.
        """
        if self.epochs is None:
            return True
        epoch = step.epoch
        if self.published_gpus is not None:
            epoch = (step.step + 1) // _steps_per_published_epoch(step, self.published_gpus)
        return self.epochs[0] <= epoch <= self.epochs[1]


def _steps_per_published_epoch(step: StepContext, gpus: int) -> int:
    if step.images_per_epoch is None:
        raise Syn2coError(
            "data.images_per_epoch",
            "missing",
            "the images of the data set",
            "add it: method.compat synco_v2 counts its epochs by it",
        )
    return step.images_per_epoch // (step.images_per_step_global // gpus)


def active_epochs(spec: MobySpec | MocoSpec, negatives: NegativesSpec) -> ActiveEpochs:
    """When a framework with this spec makes synthesized negatives."""
    gpus = spec.compat_world_size if isinstance(spec, MobySpec) and spec.compat == SYNCO_V2 else None
    return ActiveEpochs(negatives.active_epochs, gpus)


def learning_rate_steps_late(spec: MethodSpec) -> int:
    """By how many steps the learning rate lags behind its schedule: 1 with synco_v2."""
    return int(isinstance(spec, MobySpec) and spec.compat == SYNCO_V2)


@torch.no_grad()
def start_queue(spec: MobySpec | MocoSpec, queue: FeatureQueue, seed: int) -> None:
    """With synco_v1, refill a new queue (K, C) as that code does: columns of length 1 instead of rows.

    The queries' logits against it are smaller by sqrt(C / K) until its rows are overwritten.
    """
    if spec.compat != SYNCO_V1:
        return
    generator = Generator().manual_seed(seed_of(seed, "queue/synco_v1"))
    random = torch.randn(queue.features.shape, generator=generator)
    queue.fill(F.normalize(random, dim=0))


def start_vit(spec: MobySpec, encoder: nn.Module) -> None:
    """With synco_v2, a new encoder starts with the weights of MoCo v3's ViT, if it is a ViT."""
    if spec.compat == SYNCO_V2 and isinstance(encoder, VisionTransformer):
        use_moco_v3_weights(encoder)
