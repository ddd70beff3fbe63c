"""The features of an evaluation: of which networks, images and views; made once, kept as shards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ..evaluate.labelled import LabelledSet
from ..spec.base import Pool
from ..spec.errors import DataError, RunInterrupted
from ..spec.evaluation import EvaluateJobSpec
from ..spec.source import SourceSpec
from ..storage import list_files
from ..train.run_folder import RunFolder
from .prepare import frozen_index
from .progress import Progress


class EvaluationFeatures:
    """What one job's protocols look at.

    Attributes:
        bank, queries: its sets.
        device: where networks run that are not in actors.
        warnings: about images left out, for results.json.
    """

    def __init__(
        self,
        job: EvaluateJobSpec,
        source: Any,
        run: RunFolder,
        log: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Features of the weights `source` (`LoadedBackbone`) in the folder of `run`."""
        import torch

        self.job, self.data, self.source, self.run = job, job.labelled, source, run
        self.log, self.should_stop = log, should_stop
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.warnings: list[str] = []
        self.bank = self.set_of("eval-bank", self.data.eval_bank)
        self.queries = self.set_of("eval", self.data.eval)

    def set_of(self, name: str, images: SourceSpec, *, labels_needed: bool = True) -> LabelledSet:
        """Images of a source, listed once under this name."""
        return LabelledSet(
            (frozen_index(self.run, name, images, self.job.object_store, self.log),),
            self.job.object_store,
            self.source.image_size,
            self.data.image_pixels_max,
            self.job.images_per_batch,
            labels_needed,
        )

    def networks(self) -> list[Any]:
        """The weights first; with baselines the same at random, and pixels."""
        from ..evaluate.networks import network_of, pixels_network

        loaded = self._backbones()
        networks = [network_of(name, backbone, self.device) for name, backbone in loaded]
        return [*networks, pixels_network()] if self.job.baselines else networks

    def make_by_actors(self, actors: Pool, progress: Progress) -> None:
        """Have actors make all shards that the protocols will ask for."""
        from ..evaluate.feature_shards import FOLDER, View, feature_plan
        from ..evaluate.networks import packed, packed_pixels
        from ..evaluate.shard_actor import Assignment, Task
        from .feature_actors import made_by_actors

        networks = [packed(name, backbone) for name, backbone in self._backbones()]
        networks += [packed_pixels()] if self.job.baselines else []
        sets = [self.bank, self.queries]
        if self.job.landmarks is not None:
            sets.append(self.set_of("landmarks", self.job.landmarks.images, labels_needed=False))
        tasks = [
            Task(feature_plan(images, network.digest, View()), place)
            for place, network in enumerate(networks)
            for images in sets
        ]
        views = self._corrupted_views() if self.job.robustness is not None else ()
        tasks += [Task(feature_plan(self.queries, networks[0].digest, view), 0) for _, _, view in views]
        folder = self.run.store.child(FOLDER)
        there = {info.path for info in list_files(folder, recursive=False, missing_ok=True)}
        missing = [
            (place, number)
            for place, task in enumerate(tasks)
            for number in range(len(task.plan.groups))
            if task.plan.file_of(number) not in there
        ]
        if not missing:
            return
        assignment = Assignment(folder, tuple(tasks), tuple(networks))
        for _ in made_by_actors(assignment, missing, actors, progress, self.should_stop):
            pass
        self.stop_if_asked()

    def of(self, images: LabelledSet, network: Any, view: Any = None) -> Any:
        """Features of all images (`FeatureSet`), those that are missing made now.

        Raises:
            RunInterrupted: asked to stop, after a whole shard.
            DataError: too many images cannot be decoded.
        """
        from ..evaluate.feature_shards import View, feature_set

        found = feature_set(
            self.run.store, images, network, self.device, self.log, view or View(), self.should_stop
        )
        if found is None:
            raise self.stopped()
        total, bad = len(found.keys) + len(found.unreadable), len(found.unreadable)
        if bad > self.data.quarantine_share_max * total:
            raise DataError(
                images.indexes[0].source.uri,
                f"{bad} of {total} images cannot be decoded, such as {found.unreadable[0]}",
                f"at most {self.data.quarantine_share_max:.1%} (data.quarantine_share_max)",
                "mend the source or raise that share",
            )
        if bad:
            warning = f"{bad} of {total} images of {images.indexes[0].source.uri} cannot be decoded: left out"
            if warning not in self.warnings:
                self.warnings.append(warning)
        return found

    def corrupted(self, network: Any) -> Iterator[tuple[str, int, Any]]:
        """Name, severity and features of every corruption of the queries."""
        for name, severity, view in self._corrupted_views():
            yield name, severity, self.of(self.queries, network, view)

    def _corrupted_views(self) -> Iterator[tuple[str, int, Any]]:
        from ..augment.corruptions import corrupt
        from ..evaluate.feature_shards import View

        assert self.job.robustness is not None
        for name in self.job.robustness.corruptions:
            for severity in self.job.robustness.severities:
                alter = functools.partial(_corrupted_view, corrupt, name, severity, self.job.seed)
                yield name, severity, View(f"{name} {severity} seed {self.job.seed}", alter)

    def stop_if_asked(self) -> None:
        """Between two images or shards.

        Raises:
            RunInterrupted: asked to stop.
        """
        if self.should_stop():
            raise self.stopped()

    def stopped(self) -> RunInterrupted:
        """The error that says so."""
        return RunInterrupted(
            self.run.store.uri,
            "stopped",
            "",
            "whole shards of features and whole videos stay: run the same command",
        )

    def _backbones(self) -> list[tuple[str, Any]]:
        from ..evaluate.protocols import RANDOM, TRAINED
        from ..evaluate.weights import random_backbone

        own = RANDOM if self.job.weights.random_seed is not None else TRAINED
        random = self.job.baselines and own != RANDOM
        return [(own, self.source)] + (
            [(RANDOM, random_backbone(self.source, self.job.seed))] if random else []
        )


def _corrupted_view(corrupt: Any, name: str, severity: int, seed: int, view: Any, key: str) -> Any:
    return corrupt(view, name, severity, seed, key)
