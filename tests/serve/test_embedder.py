"""Features made for serving are those of `kind: evaluate`, whatever else is in the batch.

A batch of another size takes other paths through the matrix products: rows may differ in the last bits of
float32. Stated: at most 1e-5 of the largest feature. In batches of equal size nothing may differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from syn2co_ray.data.decode import UnreadableImage
from syn2co_ray.data.index import build_index
from syn2co_ray.evaluate.feature_shards import Network, feature_set
from syn2co_ray.evaluate.labelled import LabelledSet
from syn2co_ray.evaluate.networks import packed
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.methods.normalise import normalise
from syn2co_ray.serve.embedder import ImageEmbedder
from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.spec.weights import WeightsSpec
from syn2co_ray.storage import open_store

from ..data.sources import write_parquet

OPTIONS = ObjectStoreSpec()
CPU = torch.device("cpu")
VIT = WeightsSpec(
    random_seed=5,
    backbone="vit_tiny_patch16_224",
    image_size=32,
    patch_size=8,
    backbone_options={"embed_dim": 48, "depth": 3, "num_heads": 3},
)
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def embedder() -> ImageEmbedder:
    return ImageEmbedder(packed("random", load_backbone(VIT, OPTIONS)), 10_000, CPU)


def test_features_are_those_of_evaluation(embedder: ImageEmbedder, tmp_path: Path) -> None:
    records = write_parquet(str(tmp_path / "data"))
    images = LabelledSet(
        (build_index(SourceSpec(uri=str(tmp_path / "data")), OPTIONS),), OPTIONS, 32, 10_000, 16
    )
    backbone = load_backbone(VIT, OPTIONS)

    def embed(views: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return backbone.network(normalise(views))

    network = Network("trained", backbone.digest, embed)
    evaluated = feature_set(
        open_store(str(tmp_path / "job"), OPTIONS), images, network, CPU, lambda line: None
    )
    assert evaluated is not None
    expected = evaluated.features.numpy()
    served = np.stack([embedder.features([embedder.view(record.image)])[0] for record in records])
    assert served.dtype == np.float32
    assert np.abs(expected).max() > 0.1
    assert np.abs(served - expected).max() <= ROUNDING * np.abs(expected).max()


def test_a_row_does_not_depend_on_the_rest_of_its_batch(embedder: ImageEmbedder) -> None:
    views = list(np.random.default_rng(0).integers(0, 256, (33, 3, 32, 32), dtype=np.uint8))
    alone = np.stack([embedder.features([view])[0] for view in views])
    for size in (2, 7, 32, 33):
        rows = embedder.features(views[:size])
        assert np.abs(rows - alone[:size]).max() <= ROUNDING * np.abs(alone).max()
    others = embedder.features([views[0], *views[20:27]])
    assert np.array_equal(others[0], embedder.features([views[0], *views[1:8]])[0])


def test_what_is_no_image_or_too_large_is_refused_and_weights_that_diverged_too(
    embedder: ImageEmbedder,
) -> None:
    with pytest.raises(UnreadableImage, match="not a JPEG"):
        embedder.view(b"text")
    assert embedder.check() == 48
    diverged = load_backbone(VIT, OPTIONS)
    torch.nn.init.constant_(diverged.network.get_parameter("norm.weight"), float("nan"))
    with pytest.raises(CheckpointError, match="grey image are not finite"):
        ImageEmbedder(packed("diverged", diverged), 10_000, CPU).check()
