"""`syn2co run` for `kind: evaluate`: features once, every protocol asked for on them, one page."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from ..data.prepare import run_prepare
from ..evaluate.labelled import check_labelled
from ..report.detection_tables import detection_lines, with_headlines
from ..report.run_files import load_run_files
from ..report.table import result_lines
from ..report.training_record import training_record
from ..spec.evaluation import EvaluateJobSpec
from ..spec.identity import resolved, resolved_yaml, run_name
from ..storage import publish_bytes
from ..storage.run_layout import PROVENANCE_FILE, REPORT_FILE, RESULTS_FILE
from ..train.run_folder import RunFolder
from .cluster import connected
from .detection import detection_pictures, run_detection
from .driver_log import driver_log
from .evaluate_video import VideoPart, evaluation_pictures
from .evaluation_features import EvaluationFeatures
from .leaks import TrainingImages
from .progress import Progress
from .provenance import provenance
from .resources import check_actors
from .stop_signals import StopSignals
from .weights_folder import weights_and_folder


def run_evaluate(job: EvaluateJobSpec, console: Console, *, debug: bool = False) -> dict[str, Any]:
    """Measure what is asked for; returns the content of results.json.

    Features are made in this process, on its GPU where there is one, or with `actors` by these on a Ray
    cluster, and kept shard by shard; probes that train are runs on a Ray cluster (see `training_probes`). The
    same command after a stop does the rest, whoever did what is there.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM, after a whole shard or checkpoint.
        Syn2coError: weights or data that cannot be used.
    """
    with driver_log(run_name(job)) as log, Progress(console) as progress, StopSignals() as stop:
        progress.log(f"evaluation {run_name(job)}")
        if job.data is not None:
            run_prepare(job.data.prepare, job.object_store, progress.log)
        source, run = weights_and_folder(job, progress.log)
        log.publish_into(run.store)
        results = run.read_json(RESULTS_FILE)
        if results is None:
            stop.listen()
            results = _results(job, source, run, progress, stop, debug)
            # It brings matplotlib, which takes seconds to import.
            from ..report.evaluation_page import render_evaluation_page

            pictures = evaluation_pictures(run)
            if job.detection is not None:
                pictures += detection_pictures(run)
            page = render_evaluation_page(job.name, results, resolved_yaml(job), pictures=pictures)
            publish_bytes(run.store, REPORT_FILE, page.encode())
            # Last: who finds it finds the page.
            run.write_json(RESULTS_FILE, results)
        about_features = result_lines(results) if job.data is not None else []
        for line in [*about_features, *detection_lines(results)]:
            progress.log(line)
        for warning in results["warnings"]:
            progress.log(f"warning: {warning}")
        progress.log(f"report: {run.store.child(REPORT_FILE).uri}")
        return results


def _results(
    job: EvaluateJobSpec,
    source: Any,
    run: RunFolder,
    progress: Progress,
    stop: StopSignals,
    debug: bool,
) -> dict[str, Any]:
    """Content of results.json: features' figures where there is `data`, and those of detection."""
    started = time.perf_counter()
    if job.data is not None:
        features = EvaluationFeatures(job, source, run, progress.log, stop.asked.is_set)
        measuring = _Measuring(job, features, progress, stop, debug)
        if job.actors is not None:
            with connected(debug=debug) as cluster:
                stop.listen()
                check_actors(job.actors, cluster)
                features.make_by_actors(job.actors, progress)
        results = measuring.results()
    else:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        results = {
            "status": "finished",
            "rows": [],
            "weights": _about(source),
            "warnings": [],
            "device": device,
        }
        if run.read_json(PROVENANCE_FILE) is None:
            run.write_json(PROVENANCE_FILE, {**provenance(job, ()), "weights": _made_by(source)})
    if job.detection is not None:
        found, warnings = run_detection(job, run, progress, stop, debug=debug)
        results = {**results, "detection": found, "warnings": [*results["warnings"], *warnings]}
        results["rows"] = with_headlines(results["rows"], found)
    return {**results, "wall_s": time.perf_counter() - started}


def _about(source: Any) -> dict[str, Any]:
    return {"source": source.source, "digest": source.digest, "notes": list(source.notes)}


def _made_by(source: Any) -> dict[str, Any]:
    """The weights for provenance.json, with the training that made them: a table needs no other folder."""
    if source.run is None:
        return _about(source)
    training = training_record(load_run_files(source.run), source.run.uri, source.step, source.encoder)
    # The spec that the checkpoint holds is there whatever else the folder lacks.
    training = training.model_copy(update={"spec": resolved(source.job)})
    return {**_about(source), "training": training.model_dump(mode="json")}


class _Measuring:
    """One job's way from features to figures."""

    def __init__(
        self,
        job: EvaluateJobSpec,
        features: EvaluationFeatures,
        progress: Progress,
        stop: StopSignals,
        debug: bool,
    ) -> None:
        """Looks at all that protocols need, before the first feature is made."""
        self.job, self.data, self.source, self.run = job, job.labelled, features.source, features.run
        self.features, self.progress, self.stop, self.debug = features, progress, stop, debug
        self.bank, self.queries, self.device = features.bank, features.queries, features.device
        check_labelled(self.bank, "data.eval_bank")
        check_labelled(self.queries, "data.eval")
        if job.fine_tune is not None and job.fine_tune.layer_decay is not None:
            from ..methods.fine_tune import layer_factors

            layer_factors(self.source.network, job.fine_tune.layer_decay)
        self.truth = self._ground_truth()
        self.networks = features.networks()
        self.videos = VideoPart.of(job, self.networks, self.source.image_size, self.device)
        if self.videos is not None:
            self.videos.check_masks(features.stop_if_asked)

    def results(self) -> dict[str, Any]:
        from ..evaluate.few_shot import check_few_shot
        from ..evaluate.measures import classes_of, duplicates, figures, robustness, unchosen_rates

        job, networks, videos = self.job, self.networks, self.videos
        if self.run.read_json(PROVENANCE_FILE) is None:
            made = provenance(job, (*self.bank.indexes, *self.queries.indexes))
            self.run.write_json(PROVENANCE_FILE, {**made, "weights": _made_by(self.source)})
        sets = {network.name: (self.features.of(self.bank, network), self.features.of(self.queries, network))
                for network in networks}  # fmt: skip
        bank, queries = sets[networks[0].name]
        classes, notes = classes_of(bank, queries)
        self.features.warnings += notes + unchosen_rates(job, classes.numbers(bank.labels))
        if job.few_shot is not None:
            check_few_shot(classes.numbers(queries.labels), job.few_shot)
        trained_on = TrainingImages(job, self.source, self.features.stop_if_asked)
        found = duplicates(bank, queries, trained_on.contents())
        for place, count in found.items():
            if count:
                self.features.warnings.append(
                    f"{count} of {len(queries.keys)} images of data.eval also stand in {place}"
                )
        self.features.warnings += trained_on.warnings
        rows = []
        for network in networks:
            rows.append(figures(job, network.name, *sets[network.name], classes, self.device))
            if job.landmarks is not None:
                rows[-1]["landmarks"] = self._landmarks(network)
            self.features.log(f"measured: {network.name}")
        results: dict[str, Any] = {"status": "finished", "rows": rows}
        if job.robustness is not None:
            results["robustness"] = robustness(
                job, bank, self.features.corrupted(networks[0]), classes, self.device
            )
        if videos is not None:
            found_in_videos = videos.measured(self.run, self.features.log, self.features.should_stop)
            if found_in_videos is None:
                raise self.features.stopped()
            results["video_segmentation"], odd = found_in_videos
            self.features.warnings += odd
            for row in rows:
                if row["features"] in results["video_segmentation"]["rows"]:
                    row["video_segmentation"] = results["video_segmentation"]["rows"][row["features"]]
        if job.statistics is not None:
            results["statistics"] = self._statistics(networks[0], queries)
        if job.linear_augmented is not None or job.fine_tune is not None:
            self._train_probes(rows, networks, sets, classes)
        return {
            **results,
            "weights": _about(self.source),
            "images": {"eval": len(queries.keys), "eval_bank": len(bank.keys), "classes": len(classes.names)},
            "duplicates": found,
            "warnings": self.features.warnings,
            "device": str(self.device),
        }

    def _ground_truth(self) -> Any:
        if self.job.landmarks is None:
            return None
        from ..evaluate.landmarks import read_ground_truth

        return read_ground_truth(self.job.landmarks.ground_truth, self.job.object_store)

    def _landmarks(self, network: Any) -> dict[str, Any]:
        from ..evaluate.landmarks import landmark_map

        spec = self.job.landmarks
        assert spec is not None
        images = self.features.set_of("landmarks", spec.images, labels_needed=False)
        return landmark_map(self.truth, images, self.features.of(images, network), network.embed, self.device)

    def _train_probes(
        self, rows: list[dict[str, Any]], networks: list[Any], sets: dict[str, Any], classes: Any
    ) -> None:
        """Last, as it takes longest: probes that train, of every network that can; into its row."""
        from .training_probes import TrainingProbes

        with connected(debug=self.debug) as cluster:
            self.stop.listen()
            probes = TrainingProbes(
                self.job,
                self.run.store,
                self.source,
                self.bank,
                self.queries,
                cluster,
                self.progress,
                self.stop,
            )
            for row, network in zip(rows, networks, strict=True):
                bank, queries = sets[network.name]
                if network.backbone is not None:
                    row |= probes.measure(network, bank, queries, classes)

    def _statistics(self, network: Any, queries: Any) -> dict[str, float]:
        from ..evaluate import statistics
        from ..evaluate.random_views import drawn_places, random_views

        spec, seed = self.job.statistics, self.job.seed
        assert spec is not None
        features = queries.features[drawn_places(len(queries.features), spec.images, seed)]
        views = random_views(self.queries, spec, network.embed, self.device, seed)
        return {
            "rankme": statistics.rankme(features),
            "uniformity": statistics.uniformity(features),
            "lidar": statistics.lidar(views),
            "alignment": statistics.alignment(views),
            "images": len(features),
            "views": views.shape[1],
            "features": features.shape[1],
        }
