"""Evaluation images that the weights have seen: where they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..data.index import build_index
from ..data.source_index import SourceIndex
from ..spec.errors import DataError, StorageError
from ..spec.evaluation import EvaluateJobSpec
from ..storage import open_store

if TYPE_CHECKING:
    from ..evaluate.weights import LoadedBackbone

IMAGES_UNASKED_MAX = 100_000
"""A source of more images is read whole only if the job names it."""


class TrainingImages:
    """Images of the sources that the job names, and of those of the run that trained the weights.

    Attributes:
        warnings: one for each source that is known and was not, or not wholly, looked at; whole when
            `contents` has ended.
    """

    def __init__(
        self, job: EvaluateJobSpec, source: LoadedBackbone, stop_if_asked: Callable[[], None]
    ) -> None:
        """`stop_if_asked` raises when the job is to end."""
        self.job, self.source, self.options = job, source, job.object_store
        self._stop_if_asked = stop_if_asked
        self.warnings: list[str] = []

    def contents(self) -> Iterator[bytes]:
        """Content hashes.

        Raises:
            RunInterrupted: asked to stop.
            Syn2coError: a source that the job names cannot be read.
        """
        data = self.job.labelled
        for images in data.trained_on:
            yield from self._of(build_index(images, self.options))
        named = {open_store(images.uri, self.options).uri for images in (data.eval_bank, *data.trained_on)}
        for images in self.source.job.data.train if self.source.job else ():
            uri = open_store(images.uri, self.options).uri
            if uri in named:
                continue
            try:
                index = build_index(images, self.options)
                if index.num_records <= IMAGES_UNASKED_MAX:
                    yield from self._of(index)
                    continue
                why = f"its {index.num_records:,} images are read only if data.trained_on names it"
            except (DataError, StorageError) as error:
                why = f"it cannot be read ({error})"
            self.warnings.append(
                f"{uri}, which the weights were trained on, was not searched for images of data.eval: {why}"
            )

    def _of(self, index: SourceIndex) -> Iterator[bytes]:
        from ..evaluate.feature_shards import contents_of

        for content in contents_of(index, self.options):
            self._stop_if_asked()
            yield content
