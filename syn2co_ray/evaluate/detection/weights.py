"""The backbone that a detector begins with."""

from __future__ import annotations

from ...spec.evaluation import EvaluateJobSpec
from ..weights import LoadedBackbone, load_backbone, random_backbone


def detection_backbone(job: EvaluateJobSpec, *, is_random: bool = False) -> LoadedBackbone:
    """The job's weights, or the same architecture at random, for images of `detection.image_size`.

    Raises:
        Syn2coError: weights that cannot be used.
    """
    assert job.detection is not None
    weights = job.weights.model_copy(update={"image_size": job.detection.image_size})
    loaded = load_backbone(weights, job.object_store)
    return random_backbone(loaded, job.seed) if is_random else loaded
