"""README.md of an exported backbone: what it is, what it learned from, how well, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from .run_files import Provenance, Results
from .table import table_cells

USE = {
    "timm": "# (n, 3, {size}, {size}) -> (n, {features})\n"
    'timm.create_model("local-dir:timm", pretrained=True)',
    "torchvision": "network = torchvision.models.{name}(); network.fc = torch.nn.Identity()\n"
    'network.load_state_dict(safetensors.torch.load_file("torchvision/{name}.safetensors"))',
    "onnx": 'onnxruntime.InferenceSession("onnx/model.onnx").run(["features"], {{"images": images}})',
    "torch_export": 'torch.export.load("torch_export/model.pt2").module()',
}


@dataclass(frozen=True)
class ExportedModel:
    """What a card says of a backbone."""

    name: str
    backbone: str
    image_size: int
    num_features: int
    parameters: int
    source: str
    digest: str
    mean: Sequence[float]
    std: Sequence[float]
    notes: Sequence[str] = ()
    licence: str | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    """Form -> largest difference from the source, as part of the largest feature."""


@dataclass(frozen=True)
class Training:
    """The run a backbone is from."""

    spec: Mapping[str, Any]
    provenance: Provenance
    results: Results | None
    """Of this very step; None where the run ended elsewhere or has no figures."""
    why_no_results: str = ""


def model_card(model: ExportedModel, training: Training | None) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    front = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "image-feature-extraction", "self-supervised-learning"],
        **({"license": model.licence} if model.licence else {}),
    }
    lines = ["---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "", f"# {model.name}", ""]
    lines += [
        f"A {model.backbone} image encoder: {model.parameters / 1e6:,.1f} M parameters, "
        f"{model.num_features} features, images of {model.image_size} x {model.image_size} pixels, RGB in "
        f"[0, 1], mean {_numbers(model.mean)}, standard deviation {_numbers(model.std)}. No classifier.",
        "",
    ]
    lines += _use(model)
    if training is not None:
        lines += _data(training.provenance) + _recipe(training.spec) + _figures(training)
    lines += _provenance(model, training)
    return "\n".join(lines).rstrip() + "\n"


def _use(model: ExportedModel) -> list[str]:
    known = {"size": model.image_size, "features": model.num_features, "name": model.backbone}
    code = [USE[form].format(**known) for form in model.errors]
    lines = [
        "## Use",
        "",
        "```python",
        *code,
        "```",
        "",
        "| form | largest difference from the source |",
        "|---|---|",
    ]
    lines += [f"| {form} | {error:.2g} of the largest feature |" for form, error in model.errors.items()]
    return [*lines, ""]


def _data(provenance: Provenance) -> list[str]:
    lines = ["## Data", "", "| source | images | manifest (SHA-256) |", "|---|---|---|"]
    for data in provenance.data:
        count = "not recorded" if data.records is None else f"{data.records:,}"
        lines.append(f"| {_cell(data.uri)} | {count} | {data.fingerprint or 'not recorded'} |")
    return [*lines, ""]


def _recipe(spec: Mapping[str, Any]) -> list[str]:
    kept = {name: spec[name] for name in ("seed", "augment", "method") if name in spec}
    named = ("images_per_step_global", "epochs", "precision", "optimizer")
    kept["train"] = {name: value for name, value in spec.get("train", {}).items() if name in named}
    text = yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=100).rstrip()
    return ["## Recipe", "", "```yaml", text, "```", ""]


def _figures(training: Training) -> list[str]:
    lines = ["## Figures", ""]
    if training.results is None or not training.results.rows:
        return [*lines, f"None: {training.why_no_results or 'nothing was measured'}.", ""]
    header, *rows = table_cells(training.results.rows)
    table = [_row(header), _row(["---"] * len(header)), *map(_row, rows)]
    return [*lines, "Top-1 % on the run's evaluation images, measured when it ended.", "", *table, ""]


def _provenance(model: ExportedModel, training: Training | None) -> list[str]:
    lines = ["## Provenance", "", f"- weights: {model.source}", f"- digest (SHA-256): {model.digest}"]
    lines += [f"- {note}" for note in model.notes]
    if training is not None:
        made = training.provenance
        lines.append(f"- spec (SHA-256): {made.spec_hash or 'not recorded'}")
        lines.append(f"- code: syn2co_ray {made.code_version}, commit {made.git_commit or 'not recorded'}")
        libraries = ", ".join(f"{name} {version}" for name, version in made.libraries.items())
        lines.append(f"- libraries: {libraries or 'not recorded'}")
    return [*lines, ""]


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
