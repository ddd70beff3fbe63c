"""What a run folder has measured: of which weights, on which images, under which settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import hash_but_seed
from syn2co_ray.spec.load import build_spec

from .conditions import conditions
from .device_hours import DeviceHours
from .protocols import SECTIONS_WITH_IMAGES, figures_beside_rows, figures_by_section
from .published import value_at
from .run_files import DataRecord, Provenance, RunFiles, TrainingRecord, WeightsRecord
from .run_folders import LoadedRun
from .table import TRAINED
from .training_record import training_record

HASH_LENGTH = 8


@dataclass(frozen=True)
class Weights:
    """What was measured.

    Attributes:
        identity: equal for repeats of one training under other seeds, and for the same file of weights.
        seed: of the training, or of random weights; of the evaluation where a file has none.
        name: of the training, or of the file.
        framework, backbone, data, epochs: in words; empty where they are not known.
        training: the training they are from.
        as_published: they are those that a paper's figure of this training would be of.
    """

    identity: str
    seed: int
    name: str
    framework: str
    backbone: str = ""
    data: str = ""
    epochs: str = ""
    training: TrainingRecord | None = None
    as_published: bool = False

    @property
    def hours(self) -> DeviceHours | None:
        known = self.training
        if known is None or known.hours is None:
            return None
        return DeviceHours(known.hours, known.hours_of)


@dataclass(frozen=True)
class Figure:
    """One number: of which sort of features, by which protocol of which section."""

    features: str
    section: str
    protocol: str
    value: float


@dataclass(frozen=True)
class Measurement:
    """What one finished run folder says.

    Attributes:
        run: the folder.
        weights: what was measured.
        conditions: section -> what tells its settings, and images of its own, from others.
        own_features: names of the features of the weights; others are baselines.
    """

    run: LoadedRun
    weights: Weights
    conditions: Mapping[str, str]
    own_features: tuple[str, ...]

    @property
    def is_training(self) -> bool:
        return not _is_evaluation(self.run.files)

    @property
    def name(self) -> str:
        """Of the job."""
        return str(self.run.files.spec.get("name") or _last(self.run.uri))

    @property
    def commit(self) -> str | None:
        return self.run.files.provenance.git_commit if self.run.files.provenance else None

    @property
    def labelled(self) -> str | None:
        """What tells the labelled images from others; None where a training has not recorded them."""
        records = self.images("knn")
        if self.is_training and not any(record.fingerprint for record in records):
            return None
        return " ".join(record.fingerprint or record.uri for record in records)

    def condition(self, section: str) -> str:
        """What tells a section's settings, and images of its own, from others."""
        return self.conditions.get(section, "")

    def images(self, section: str) -> Sequence[DataRecord]:
        """What a section learned from, and, last, what it was measured on."""
        files = self.run.files
        made, spec = files.provenance or Provenance(), files.spec
        if section == "detection":
            named = [value_at(spec, f"detection.{part}.annotations") for part in ("train", "eval")]
            return made.detection or _by_uri(named)
        if section in SECTIONS_WITH_IMAGES:
            return _by_uri([value_at(spec, f"{section}.uri") or value_at(spec, f"{section}.images.uri")])
        recorded = made.evaluated_on if self.is_training else made.data
        return recorded or _by_uri([value_at(spec, f"data.{part}.uri") for part in ("eval_bank", "eval")])

    def figures(self) -> Iterator[Figure]:
        """Every number that a table can hold."""
        results = self.run.files.results
        assert results is not None, "only finished runs are measurements"
        beside = figures_beside_rows(results)
        for row in results.rows:
            found = figures_by_section(row)
            if row.features == self.own_features[0]:
                found = {**found, **beside}
            for section, figures in found.items():
                for protocol, value in figures.items():
                    yield Figure(row.features, section, protocol, value)


def measurement_of(run: LoadedRun) -> Measurement:
    """What a finished run with figures has measured: its own weights, or as an evaluation those of another.

    Args:
        run: a folder with a spec and rows of results.
    """
    files = run.files
    assert files.results is not None, "only finished runs are measurements"
    if _is_evaluation(files):
        weights = _of_evaluation(files)
    else:
        options = {"image_size": value_at(files.spec, "augment.image_size")}
        weights = _of_training(training_record(files, run.uri), options)
    settings = conditions(files.spec)
    features = [row.features for row in files.results.rows]
    trained = tuple(name for name in features if name.startswith(TRAINED))
    found = Measurement(run, weights, settings, trained or (features[0],))
    for section in SECTIONS_WITH_IMAGES:
        # Settings name images by their place; what is known of the images themselves is better.
        if known := " ".join(record.fingerprint or "" for record in found.images(section)).strip():
            settings[section] = f"{settings.get(section, '')} {known}"
    return found


def set_name(record: DataRecord) -> str:
    """An image set in few words: the end of its URI, and the beginning of its fingerprint."""
    words = "/".join([name for name in record.uri.rpartition("://")[2].split("/") if name][-2:])
    return f"{words} {(record.fingerprint or '')[:HASH_LENGTH]}".strip()


def _is_evaluation(files: RunFiles) -> bool:
    return files.spec.get("kind") == "evaluate"


def _of_evaluation(files: RunFiles) -> Weights:
    options = value_at(files.spec, "weights") or {}
    known = (files.provenance.weights if files.provenance else None) or WeightsRecord()
    if known.training is not None:
        return _of_training(known.training, options)
    # What names the weights whatever file or folder they lie in.
    identity = f"weights {known.digest or yaml.safe_dump(options)}"
    backbone = _backbone(options, options.get("image_size"))
    if (random_seed := options.get("random_seed")) is not None:
        shared = {name: value for name, value in options.items() if name != "random_seed"}
        return Weights(f"random {yaml.safe_dump(shared)}", random_seed, "random", "random", backbone)
    kind, place = ("file", options.get("file")) if options.get("file") else ("run", options.get("run"))
    name = _last(str(place or known.source))
    return Weights(identity, _seed(files.spec), name, f"weights of a {kind}", backbone)


def _of_training(training: TrainingRecord, options: Mapping[str, Any]) -> Weights:
    """Weights of a training, looked at with the options of section `weights`."""
    spec = training.spec
    own_size = value_at(spec, "augment.image_size")
    size = options.get("image_size") or own_size
    looked_at = [training.step, training.encoder, size, options.get("allow_missing") or []]
    identity = [_spec_but_seed(spec), *(record.fingerprint or record.uri for record in training.data)]
    framework, epochs = (str(value_at(spec, key) or "") for key in ("method.framework", "train.epochs"))
    is_target = training.encoder == "target"
    return Weights(
        identity="\n".join([*identity, yaml.safe_dump(looked_at)]),
        seed=_seed(spec),
        name=str(spec.get("name") or _last(training.uri)),
        framework=(framework or str(spec.get("kind") or "")) + (" (target encoder)" if is_target else ""),
        backbone=_backbone(value_at(spec, "method") or {}, size if size != own_size else None),
        data=_data(spec),
        epochs=epochs if training.finished else f"{epochs}, at step {training.step}",
        training=training,
        # DINO is published with its target encoder, and a training of ours is measured with the other.
        as_published=training.finished and size == own_size and (not is_target or framework == "dino"),
    )


def _spec_but_seed(spec: Mapping[str, Any]) -> str:
    try:
        return hash_but_seed(build_spec(dict(spec)))
    except SpecError:
        # A run of another version, whose spec this one refuses: only those of equal text are repeats.
        return yaml.safe_dump({k: v for k, v in spec.items() if k not in ("seed", "name", "storage")})


def _seed(spec: Mapping[str, Any]) -> int:
    seed = spec.get("seed")
    return seed if isinstance(seed, int) else 0


def _backbone(section: Mapping[str, Any], image_size: int | None) -> str:
    """The backbone's name, with what a section changes in it."""
    options = section.get("backbone_options")
    changed = dict(options) if isinstance(options, Mapping) else {}
    changed |= {
        name: value
        for name, value in (("patch_size", section.get("patch_size")), ("image_size", image_size))
        if value is not None
    }
    told = ", ".join(f"{name} {value}" for name, value in changed.items())
    return f"{section.get('backbone') or ''}{f' ({told})' if told else ''}"


def _data(spec: Mapping[str, Any]) -> str:
    """Sources by the last two names of their URIs, with their shares and where they are not photographs."""
    sources = value_at(spec, "data.train")
    told = []
    for source in sources if isinstance(sources, list) else []:
        words, share = set_name(DataRecord(uri=str(value_at(source, "uri") or ""))), value_at(source, "share")
        if isinstance(share, int | float):
            words = f"{100 * share:g} % {words}"
        if value_at(source, "origin") == "generated":
            words += " (generated)"
        told.append(words)
    return " + ".join(told)


def _by_uri(uris: Sequence[Any]) -> list[DataRecord]:
    return [DataRecord(uri=uri) for uri in uris if isinstance(uri, str)]


def _last(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]
