"""What training probes begin with, and what they are worth once they have learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..methods import Method
from ..methods.linear_grid import CHOOSING, FINAL
from ..methods.normalise import normalise
from ..methods.supervised import Supervised
from ..spec.errors import CheckpointError, DataError, first_line
from ..spec.method import BackboneSpec
from ..spec.probe import HELD_OUT_ONE_IN, ProbeSpec
from ..storage import Store, exists, open_store, publish_bytes, read_bytes
from ..train.labels import held_out
from .feature_shards import FeatureSet
from .features import Ranks, chunks, label_hash
from .knn import top1_percent
from .labelled import LabelledSet
from .weights import weights_digest


def publish_weights(store: Store, file: str, backbone: nn.Module) -> None:
    """Leave a backbone where the workers of its probes find it, once."""
    if not exists(store, file):
        tensors = {name: tensor.cpu().contiguous() for name, tensor in backbone.state_dict().items()}
        publish_bytes(store, file, save_tensors(tensors))


def begin_with_weights(job: ProbeSpec, method: Method) -> str:
    """Put the backbone's weights into a new method; returns what was done, for people.

    Raises:
        CheckpointError: the file does not hold these weights.
    """
    store = open_store(job.storage, job.object_store)
    uri = store.child(job.weights_file).uri
    try:
        method.encoder.load_state_dict(load_tensors(read_bytes(store, job.weights_file)))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise _other_weights(uri, first_line(error)) from None
    architecture = BackboneSpec.model_validate(
        {name: getattr(job.method, name) for name in BackboneSpec.model_fields} | {"drop_path_online": 0.0}
    )
    digest = weights_digest(method.encoder, architecture, job.augment.image_size)
    if digest != job.weights_digest:
        raise _other_weights(uri, f"digest {digest[:12]}")
    return f"began with backbone {digest[:12]}"


def _other_weights(uri: str, got: str) -> CheckpointError:
    return CheckpointError(uri, got, "the backbone that is measured", "delete the file: it is written again")


def classified(
    job: ProbeSpec, method: Method, queries: LabelledSet, ranks: Ranks
) -> list[dict[str, Any]] | None:
    """Top-1 of a fine-tuned network on the evaluation view; one row on rank 0, None elsewhere.

    Each rank classifies its part of the images. Those that cannot be decoded are left out.
    """
    assert isinstance(method, Supervised)
    was_training = method.training
    method.eval()

    def classify(images: Tensor) -> Tensor:
        with torch.no_grad():
            return method.classifier(method.features(normalise(images))).argmax(dim=1, keepdim=True)

    classes = torch.tensor([label_hash(name) for name in job.method.class_names])
    right = images = 0
    for chunk in chunks(queries, {"class": classify}, ranks):
        right += int((classes[chunk.features["class"][:, 0].long()] == chunk.labels).sum())
        images += len(chunk.labels)
    method.train(was_training)
    counts = torch.tensor(ranks.gathered([right, images])).sum(dim=0).tolist()
    if ranks.rank != 0:
        return None
    found = {"top1_percent": 100 * counts[0] / max(1, counts[1]), "images_classified": counts[1]}
    return [{"features": job.name, "knn_top1_percent": {}, "linear_top1_percent": None, "fine_tune": found}]


def check_held_out(bank: FeatureSet, seed: int) -> Tensor:
    """Rows of a bank, bool (n,), that choose between the classifiers of a grid.

    Raises:
        DataError: none of them, or all.
    """
    rows = torch.from_numpy(held_out(bank.keys, seed))
    if not 0 < int(rows.sum()) < len(rows):
        raise DataError(
            "data.eval_bank",
            f"{int(rows.sum())} of {len(rows)} images are held out to choose the learning rate",
            f"about one in {HELD_OUT_ONE_IN}, and at least one on both sides",
            "give linear_augmented a larger bank, or the job another seed",
        )
    return rows


def grid_figures(
    tensors: Mapping[str, Tensor],
    rates: tuple[float, ...],
    bank: FeatureSet,
    learnt: Tensor,
    queries: FeatureSet,
    asked: Tensor,
    seed: int,
) -> dict[str, Any]:
    """What the classifiers of `methods.linear_grid` are worth on features of the evaluation view.

    Args:
        tensors: the method's state.
        rates: the grid.
        bank: what was learned from; its held-out rows choose the rate, smallest of the best.
        learnt: (n,) int64, its classes.
        queries: images that are classified.
        asked: (M,) int64, their classes.
        seed: of the job.

    Returns:
        `top1_percent` and `learning_rate` of the rate chosen; `heldout_top1_percent_by_rate`;
        `best_on_eval`, the same of the rate that is best on the evaluation images, as published figures are.
    """
    rows = check_held_out(bank, seed)
    heldout = _accuracies(tensors, CHOOSING, rates, bank.features[rows], learnt[rows])
    found = _accuracies(tensors, FINAL, rates, queries.features, asked)
    chosen = max(sorted(rates), key=heldout.__getitem__)
    best = max(sorted(rates), key=found.__getitem__)
    return {
        "top1_percent": found[chosen],
        "learning_rate": chosen,
        "heldout_top1_percent_by_rate": {f"{rate:g}": heldout[rate] for rate in rates},
        "best_on_eval": {"top1_percent": found[best], "learning_rate": best},
    }


def _accuracies(
    tensors: Mapping[str, Tensor],
    role: str,
    rates: tuple[float, ...],
    features: Tensor,
    labels: Tensor,
) -> dict[float, float]:
    found = {}
    for number, rate in enumerate(rates):
        weight, bias = (tensors[f"{role}.{number}.{name}"] for name in ("weight", "bias"))
        found[rate] = top1_percent(torch.addmm(bias, features, weight.T).argmax(dim=1), labels)
    return found
