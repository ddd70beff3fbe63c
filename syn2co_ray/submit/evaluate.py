"""`syn2co run` for `kind: evaluate`: features once, every protocol asked for on them, one page."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from ..data.index import build_index
from ..data.prepare import run_prepare
from ..evaluate.labelled import LabelledSet, check_labelled
from ..report.table import result_lines
from ..spec.errors import DataError, RunInterrupted
from ..spec.evaluation import EvaluateJobSpec
from ..spec.identity import resolved_yaml, run_name
from ..spec.source import SourceSpec
from ..storage import publish_bytes
from ..storage.run_layout import PROVENANCE_FILE, REPORT_FILE, RESULTS_FILE
from ..train.run_folder import RunFolder, open_run
from .export import check_same_weights
from .prepare import frozen_index
from .progress import Progress
from .provenance import provenance
from .stop_signals import StopSignals


def run_evaluate(job: EvaluateJobSpec, console: Console) -> dict[str, Any]:
    """Measure what is asked for; returns the content of results.json.

    Runs in this process, on its GPU where there is one, without Ray. Features are kept shard by shard, so the
    same command after a stop makes only what is missing.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM, after a whole shard.
        Syn2coError: weights or data that cannot be used.
    """
    with Progress(console) as progress, StopSignals() as stop:
        progress.log(f"evaluation {run_name(job)}")
        run_prepare(job.data.prepare, job.object_store, progress.log)
        from ..evaluate.weights import load_backbone

        source = load_backbone(job.weights, job.object_store)
        progress.log(f"weights: {source.source} (digest {source.digest[:12]})")
        for note in source.notes:
            progress.log(note)
        run = open_run(job)
        check_same_weights(run, source.digest, source.source)
        results = run.read_json(RESULTS_FILE)
        if results is None:
            stop.listen()
            results = _Measuring(job, source, run, progress, stop.asked.is_set).results()
            run.write_json(RESULTS_FILE, results)
            # It brings matplotlib, which takes seconds to import.
            from ..report.evaluation_page import render_evaluation_page

            page = render_evaluation_page(job.name, results, resolved_yaml(job))
            publish_bytes(run.store, REPORT_FILE, page.encode())
        for line in result_lines(results):
            progress.log(line)
        for warning in results["warnings"]:
            progress.log(f"warning: {warning}")
        progress.log(f"report: {run.store.child(REPORT_FILE).uri}")
        return results


class _Measuring:
    """One job's way from weights and sources to figures."""

    def __init__(
        self,
        job: EvaluateJobSpec,
        source: Any,
        run: RunFolder,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        import torch

        self.job, self.source, self.run = job, source, run
        self.log, self.should_stop = progress.log, should_stop
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.warnings: list[str] = []
        self.bank = self._set("eval-bank", job.data.eval_bank)
        self.queries = self._set("eval", job.data.eval)

    def _set(self, name: str, images: SourceSpec, *, labels_needed: bool = True) -> LabelledSet:
        return LabelledSet(
            (frozen_index(self.run, name, images, self.job.object_store, self.log),),
            self.job.object_store,
            self.source.image_size,
            self.job.data.image_pixels_max,
            self.job.images_per_batch,
            labels_needed,
        )

    def results(self) -> dict[str, Any]:
        from ..evaluate.measures import classes_of, duplicates, figures, robustness

        job, started = self.job, time.perf_counter()
        check_labelled(self.bank, "data.eval_bank")
        check_labelled(self.queries, "data.eval")
        if self.run.read_json(PROVENANCE_FILE) is None:
            weights = {"source": self.source.source, "digest": self.source.digest}
            made = provenance(job, (*self.bank.indexes, *self.queries.indexes))
            self.run.write_json(PROVENANCE_FILE, {**made, "weights": weights})
        networks = self._networks()
        sets = {network.name: (self._features(self.bank, network), self._features(self.queries, network))
                for network in networks}  # fmt: skip
        bank, queries = sets[networks[0].name]
        classes, notes = classes_of(bank, queries)
        self.warnings += notes
        found = duplicates(bank, queries, self._trained_on())
        for place, count in found.items():
            if count:
                self.warnings.append(
                    f"{count} of {len(queries.keys)} images of data.eval also stand in {place}"
                )
        rows = []
        for network in networks:
            rows.append(figures(job, network.name, *sets[network.name], classes, self.device))
            if job.landmarks is not None:
                rows[-1]["landmarks"] = self._landmarks(network)
            if job.fine_tune is not None and network.backbone is not None:
                rows[-1]["fine_tune"] = self._fine_tuned(network, *sets[network.name], classes)
            self.log(f"measured: {network.name}")
        results: dict[str, Any] = {"status": "finished", "rows": rows}
        if job.robustness is not None:
            results["robustness"] = robustness(job, bank, self._corrupted(networks[0]), classes, self.device)
        if job.statistics is not None:
            results["statistics"] = self._statistics(networks[0], queries)
        return {
            **results,
            "weights": {
                "source": self.source.source,
                "digest": self.source.digest,
                "notes": list(self.source.notes),
            },
            "images": {"eval": len(queries.keys), "eval_bank": len(bank.keys), "classes": len(classes.names)},
            "duplicates": found,
            "warnings": self.warnings,
            "device": str(self.device),
            "wall_s": time.perf_counter() - started,
        }

    def _networks(self) -> list[Any]:
        import torch

        from ..evaluate.feature_shards import Network
        from ..evaluate.features import raw_pixels
        from ..evaluate.protocols import PIXELS, RANDOM, TRAINED
        from ..evaluate.weights import random_backbone
        from ..methods.normalise import normalise

        def network(name: str, loaded: Any) -> Network:
            backbone = loaded.network.to(self.device)

            def embed(images: Any) -> Any:
                with torch.inference_mode():
                    return backbone(normalise(images))

            return Network(name, loaded.digest, embed, backbone)

        own = RANDOM if self.job.weights.random_seed is not None else TRAINED
        networks = [network(own, self.source)]
        if self.job.baselines:
            if own != RANDOM:
                networks.append(network(RANDOM, random_backbone(self.source, self.job.seed)))
            networks.append(Network(PIXELS, PIXELS, raw_pixels))
        return networks

    def _features(self, images: LabelledSet, network: Any, view: Any = None) -> Any:
        from ..evaluate.feature_shards import View, feature_set

        found = feature_set(
            self.run.store, images, network, self.device, self.log, view or View(), self.should_stop
        )
        if found is None:
            raise self._stopped()
        total, bad = len(found.keys) + len(found.unreadable), len(found.unreadable)
        if bad > self.job.data.quarantine_share_max * total:
            raise DataError(
                images.indexes[0].source.uri,
                f"{bad} of {total} images cannot be decoded, such as {found.unreadable[0]}",
                f"at most {self.job.data.quarantine_share_max:.1%} (data.quarantine_share_max)",
                "mend the source or raise that share",
            )
        if bad:
            warning = f"{bad} of {total} images of {images.indexes[0].source.uri} cannot be decoded: left out"
            if warning not in self.warnings:
                self.warnings.append(warning)
        return found

    def _landmarks(self, network: Any) -> dict[str, Any]:
        from ..evaluate.landmarks import landmark_map, read_ground_truth

        spec = self.job.landmarks
        assert spec is not None
        truth = read_ground_truth(spec.ground_truth, self.job.object_store)
        images = self._set("landmarks", spec.images, labels_needed=False)
        return landmark_map(truth, images, self._features(images, network), network.embed, self.device)

    def _fine_tuned(self, network: Any, bank: Any, queries: Any, classes: Any) -> dict[str, Any]:
        import torch

        from ..evaluate.fine_tune import fine_tuned, predicted, read_lesson
        from ..evaluate.knn import top1_percent
        from ..evaluate.measures import labelled_share

        spec, seed = self.job.fine_tune, self.job.seed
        assert spec is not None
        learnt, asked = classes.numbers(bank.labels), classes.numbers(queries.labels)

        def at_epoch(epochs: int, loss: float) -> None:
            if epochs % max(1, spec.epochs // 5) == 0:
                self.log(f"fine-tuned: {network.name}, {epochs} of {spec.epochs} epochs, loss {loss:.3f}")
            if self.should_stop():
                raise self._stopped()

        found = {}
        for share in spec.shares:
            rows = labelled_share(learnt, share, seed).tolist()
            lesson = read_lesson(self.bank, {bank.keys[row]: int(learnt[row]) for row in rows})
            model = fine_tuned(
                *(network.backbone, lesson, self.bank, len(classes.names), spec, seed, self.device), at_epoch
            )
            by_key = predicted(model, self.queries, self.device)
            percent = top1_percent(torch.tensor([by_key[key] for key in queries.keys]), asked)
            found[f"{share:g}"] = {"top1_percent": percent, "images": len(lesson.keys)}
        return found

    def _stopped(self) -> RunInterrupted:
        return RunInterrupted(
            self.run.store.uri,
            "stopped",
            "",
            "whole shards of features stay, fine-tuning starts anew: run the same command",
        )

    def _trained_on(self) -> Iterator[bytes]:
        from ..evaluate.feature_shards import contents_of

        for images in self.job.data.trained_on:
            yield from contents_of(build_index(images, self.job.object_store), self.job.object_store)

    def _corrupted(self, network: Any) -> Iterator[tuple[str, int, Any]]:
        from ..augment.corruptions import corrupt
        from ..evaluate.feature_shards import View

        assert self.job.robustness is not None
        for name in self.job.robustness.corruptions:
            for severity in self.job.robustness.severities:
                alter = functools.partial(_corrupted_view, corrupt, name, severity, self.job.seed)
                view = View(f"{name} {severity} seed {self.job.seed}", alter)
                yield name, severity, self._features(self.queries, network, view)

    def _statistics(self, network: Any, queries: Any) -> dict[str, float]:
        from ..evaluate import statistics
        from ..evaluate.random_views import random_views

        assert self.job.statistics is not None
        features = queries.features[: self.job.statistics.images]
        views = random_views(self.queries, self.job.statistics, network.embed, self.device, self.job.seed)
        return {
            "rankme": statistics.rankme(features),
            "uniformity": statistics.uniformity(features),
            "lidar": statistics.lidar(views),
            "alignment": statistics.alignment(views),
            "images": len(features),
            "views": views.shape[1],
            "features": features.shape[1],
        }


def _corrupted_view(corrupt: Any, name: str, severity: int, seed: int, view: Any, key: str) -> Any:
    return corrupt(view, name, severity, seed, key)
