"""Images of a run that could not be read: which, how many, and when they are too many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ..data.quarantine import MIN_IMAGES_BEFORE_STOPPING
from ..spec.errors import DataError
from ..spec.job import TrainingSpec
from ..storage.run_layout import QUARANTINE_FILE
from .run_folder import RunFolder

_log = logging.getLogger(__name__)


class Quarantined:
    """Counted over all starts of a run, equally on all ranks; one of them writes the list."""

    def __init__(self, job: TrainingSpec, run: RunFolder, *, writes: bool) -> None:
        self.job, self.run, self.writes = job, run, writes
        self.images_seen = self.images = 0
        # By source and key: keys are unique within a source's file or folder only.
        self._entries: dict[tuple[int, str], dict[str, Any]] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "images_seen": self.images_seen,
            "quarantined": list(self._entries.values()),
            "quarantined_images": self.images,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.images_seen, self.images = state["images_seen"], state["quarantined_images"]
        self._entries = {(entry["source"], entry["key"]): entry for entry in state["quarantined"]}

    def count(self, entries: Iterable[Mapping[str, Any]], step: int) -> None:
        """Count the images of a step, those of all ranks.

        Raises:
            DataError: too many of the images so far could not be read.
        """
        for entry in entries:
            self.images += 1
            if self.writes:
                _log.warning("image %s cannot be read: %s", entry["key"], entry["reason"])
            self._entries.setdefault((entry["source"], entry["key"]), {**entry, "step": step})
        share, limit = self.images / self.images_seen, self.job.data.quarantine_share_max
        if share > limit and self.images_seen >= MIN_IMAGES_BEFORE_STOPPING:
            self.write(self.state()["quarantined"])
            example = next(iter(self._entries.values()))
            raise DataError(
                "data.train",
                f"{self.images} of {self.images_seen} images could not be read ({share:.1%}), "
                f"for example {example['key']}: {example['reason']}",
                f"at most data.quarantine_share_max = {limit:.1%}",
                f"see {self.run.store.child(QUARANTINE_FILE).uri}; mend the files or raise the share",
            )

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Publish the list, as it was in a state."""
        if self.writes and entries:
            sources = [source.uri for source in self.job.data.train]
            rows = [{**entry, "source": sources[entry["source"]]} for entry in entries]
            self.run.write_json_lines(QUARANTINE_FILE, rows)
