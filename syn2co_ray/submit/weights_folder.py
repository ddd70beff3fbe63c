"""What jobs on finished weights begin with: the weights, and the job's folder, which is theirs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..spec.embed import EmbedSpec
from ..spec.errors import CheckpointError
from ..spec.evaluation import EvaluateJobSpec
from ..spec.export import ExportSpec
from ..storage.run_layout import PROVENANCE_FILE
from ..train.run_folder import RunFolder, open_run


def weights_and_folder(
    job: EvaluateJobSpec | EmbedSpec | ExportSpec, log: Callable[[str], None]
) -> tuple[Any, RunFolder]:
    """The job's backbone (`LoadedBackbone`) and its folder; says which weights they are.

    Raises:
        CheckpointError: weights that do not fit, or the folder was begun with others.
        Syn2coError: weights that cannot be read.
    """
    from ..evaluate.weights import load_backbone

    source = load_backbone(job.weights, job.object_store)
    log(f"weights: {source.source} (digest {source.digest[:12]})")
    for note in source.notes:
        log(note)
    run = open_run(job)
    _check_same(run, source.digest, source.source)
    return source, run


def _check_same(run: RunFolder, digest: str, source: str) -> None:
    """A folder belongs to one network: a run that has trained on since is another one.

    Raises:
        CheckpointError: the folder was begun with other weights.
    """
    begun = run.read_json(PROVENANCE_FILE)
    if begun is not None and begun["weights"]["digest"] != digest:
        raise CheckpointError(
            run.store.uri,
            f"holds what was made of {begun['weights']['source']}, and the weights are now {source}",
            "the same weights",
            "say which in weights.step, or give the job another name",
        )
