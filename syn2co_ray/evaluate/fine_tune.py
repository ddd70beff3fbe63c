"""Fine-tuning: the whole backbone learns on with a classifier, from all labels or from a part of them.

A plain loop in one process: AdamW, linear warm-up over a tenth of the steps, cosine to 0, random crops and
flips (recipe `supervised`), no drop path, label smoothing as asked for. The classifier starts at 0. Order and
crops derive from (seed, epoch, key), so on a CPU the same job gives the same figure bit for bit. The encoded
images that are learned from are held in memory. The evaluation images are met once, at the end.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augment.views import ViewMaker
from ..data.decode import decode_rgb
from ..data.index import read_fragments
from ..data.randomness import named_generator
from ..methods.backbones import num_features
from ..methods.normalise import normalise
from ..spec.augment import AugmentSpec
from ..spec.errors import TrainingError
from ..spec.evaluation import FineTuneSpec
from .features import embedded, fragment_groups
from .labelled import LabelledSet

WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Lesson:
    """Encoded images that are learned from: keys, bytes, and labels (n,) int64."""

    keys: list[str]
    images: list[bytes]
    labels: Tensor


class Classifier(nn.Module):
    """A backbone and one linear layer, which starts at 0."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(num_features(backbone), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, S, S) -> (n, classes)."""
        logits: Tensor = self.head(self.backbone(normalise(images)))
        return logits


def read_lesson(labelled: LabelledSet, keys: dict[str, int]) -> Lesson:
    """The images of one source with these keys, in its order.

    Args:
        labelled: one indexed source.
        keys: of readable records -> class.
    """
    (index,) = labelled.indexes
    found: list[tuple[str, bytes]] = []
    groups = fragment_groups(range(index.num_fragments), index.fragment_rows, labelled.images_per_batch)
    for group in groups:
        wanted = [(fragment, None) for fragment in group]
        for table in read_fragments(index, wanted, labelled.object_store, 4, ("key", "image")):
            rows = zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True)
            found += [(key, image) for key, image in rows if key in keys]
    return Lesson(
        [key for key, _ in found],
        [image for _, image in found],
        torch.tensor([keys[key] for key, _ in found]),
    )


def fine_tuned(
    network: nn.Module,
    lesson: Lesson,
    labelled: LabelledSet,
    classes: int,
    spec: FineTuneSpec,
    seed: int,
    device: torch.device,
    at_epoch: Callable[[int, float], None],
) -> Classifier:
    """A copy of the backbone that has learned on, in eval mode; the backbone itself stays as it is.

    Args:
        network: the backbone.
        lesson: what it learns from.
        labelled: says the size of the images.
        classes: number of classes.
        spec: epochs, batch, rate.
        seed: decides order and crops.
        device: where it learns.
        at_epoch: called with the number of epochs done and the mean loss of the last one; may raise.

    Raises:
        TrainingError: the loss is not finite.
    """
    model = Classifier(copy.deepcopy(network), classes).to(device).train().requires_grad_(True)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=spec.learning_rate,
    )
    maker = ViewMaker(_crops(spec, labelled.image_size), seed, "cpu")
    total, step = spec.epochs * math.ceil(len(lesson.keys) / spec.images_per_step), 0
    with ThreadPoolExecutor(max_workers=2) as decoders:
        for epoch in range(spec.epochs):
            order = named_generator(seed, "fine-tune", epoch).permutation(len(lesson.keys))
            losses = []
            for start in range(0, len(order), spec.images_per_step):
                rows = order[start : start + spec.images_per_step]
                images = list(
                    decoders.map(
                        lambda row: decode_rgb(lesson.images[row], pixels_max=labelled.image_pixels_max), rows
                    )
                )
                keys = [lesson.keys[row] for row in rows]
                views = maker(images, keys, [epoch] * len(rows), [0] * len(rows))[0][:, 0]
                logits = model(torch.from_numpy(np.ascontiguousarray(views)).to(device))
                wanted = lesson.labels[torch.from_numpy(rows)].to(device)
                loss = F.cross_entropy(logits, wanted, label_smoothing=spec.label_smoothing)
                for group in optimizer.param_groups:
                    group["lr"] = spec.learning_rate * rate_at(step, total)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
                step += 1
            mean = float(np.mean(losses))
            if not math.isfinite(mean):
                raise TrainingError(
                    "fine_tune", f"a loss of {mean} in epoch {epoch}", "a finite loss", "lower learning_rate"
                )
            at_epoch(epoch + 1, mean)
    return model.eval().requires_grad_(False)


def rate_at(step: int, total: int) -> float:
    """Learning rate of a step, from 0, as part of the peak."""
    warmup = max(1, round(WARMUP_SHARE * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, total - warmup))


def predicted(model: Classifier, labelled: LabelledSet, device: torch.device) -> dict[str, int]:
    """Key -> class that the model gives each readable image of one source, in the evaluation view."""
    (index,) = labelled.indexes

    def classify(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(images)

    found: dict[str, int] = {}
    with ThreadPoolExecutor(max_workers=2) as decoders:
        groups = fragment_groups(range(index.num_fragments), index.fragment_rows, labelled.images_per_batch)
        for group in groups:
            part = embedded(labelled, index, group, {"logits": classify}, device, decoders)
            if part.rows:
                best = part.features["logits"].argmax(dim=1).tolist()
                found |= {row["key"]: label for row, label in zip(part.rows, best, strict=True)}
    return found


def _crops(spec: FineTuneSpec, image_size: int) -> AugmentSpec:
    return AugmentSpec(
        recipe="supervised",
        image_size=image_size,
        crop_scale=spec.crop_scale,
        flip_probability=spec.flip_probability,
        backend="opencv",
    )
