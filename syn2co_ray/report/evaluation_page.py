"""The figures of an evaluation as one self-contained HTML page: no script, no request, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from .detection_tables import detection_tables, detection_tiles
from .page import duration, packaged_text
from .run_files import Results
from .table import percent, table_cells
from .video_tables import video_tables


@dataclass(frozen=True)
class Table:
    """A heading, what it means, and the cells with their header."""

    title: str
    caption: str
    cells: list[list[str]]


@dataclass(frozen=True)
class Picture:
    """A JPEG with a heading and what it shows."""

    title: str
    caption: str
    jpeg: bytes

    @property
    def embedded(self) -> str:
        return base64.b64encode(self.jpeg).decode()


def render_evaluation_page(
    title: str,
    results: Mapping[str, Any],
    spec_text: str,
    now: datetime | None = None,
    pictures: Sequence[Picture] = (),
) -> str:
    """The page as HTML.

    Args:
        title: name of the job.
        results: content of its results.json.
        spec_text: the resolved job.
        now: when the page is made; the present, in UTC, when left out.
        pictures: shown after the tables.

    Raises:
        pydantic.ValidationError: the mapping is no content of results.json.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(packaged_text("evaluation.html.j2")).render(
        style=Markup(packaged_text("style.css.j2")),
        title=title,
        status=results["status"],
        written_at=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        tiles=_tiles(results),
        tables=list(_tables(results)),
        pictures=pictures,
        warnings=results["warnings"],
        weights=results["weights"],
        spec_text=spec_text,
    )


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    if "images" in results:
        images = results["images"]
        tiles += [
            ("images classified", f"{images['eval']:,}", f"{images['classes']:,} classes"),
            ("learned from", f"{images['eval_bank']:,}", "images"),
        ]
    tiles += detection_tiles(results)
    return [*tiles, ("wall time", duration(results["wall_s"]), f"on {results['device']}")]


def _tables(results: Mapping[str, Any]) -> list[Table]:
    rows = results["rows"]
    if "images" not in results:
        return [Table(*parts) for parts in detection_tables(results)]
    tables = [
        Table(
            "k-NN and linear probe",
            "Weighted k-NN (cosine) and softmax regression on frozen features.",
            table_cells(Results.model_validate(results).rows),
        )
    ]
    if any("linear_augmented" in row for row in rows):
        tables.append(_linear_augmented([row for row in rows if "linear_augmented" in row]))
    if any("few_shot" in row for row in rows):
        shots = list(rows[0]["few_shot"])
        cells = [["features", *(f"{number}-shot top-1 %" for number in shots)]]
        for row in rows:
            found = [row["few_shot"][number] for number in shots]
            cells.append(
                [
                    row["features"],
                    *(f"{percent(f['top1_percent'])} ± {f['interval95_percent']:.2f}" for f in found),
                ]
            )
        tables.append(Table("Few-shot", "Nearest class mean; ± is the 95 % interval over episodes.", cells))
    for key, title, caption in (
        ("label_shares", "Few labels", "Linear probe from a part of the labels, top-1 %."),
        (
            "fine_tune",
            "Fine-tuning",
            "The whole backbone learned on from a part of the labels, top-1 %; run folders are in probes/.",
        ),
    ):
        measured = [row for row in rows if key in row]
        if not measured:
            continue
        shares = list(measured[0][key])
        counts = [measured[0][key][share]["images"] for share in shares]
        header = [f"{100 * float(s):g} % ({n:,} images)" for s, n in zip(shares, counts, strict=True)]
        cells = [["features", *header]]
        for row in measured:
            cells.append([row["features"], *(percent(row[key][share]["top1_percent"]) for share in shares)])
        tables.append(Table(title, caption, cells))
    if any("retrieval" in row for row in rows):
        cells = [["features", "mAP %", "queries"]]
        cells += [
            [row["features"], percent(row["retrieval"]["map_percent"]), f"{row['retrieval']['queries']:,}"]
            for row in rows
        ]
        tables.append(
            Table("Retrieval", "Each evaluation image among the others; same label = relevant.", cells)
        )
    if any("landmarks" in row for row in rows):
        setups = ("easy", "medium", "hard")
        cells = [["features", *(f"{setup}, mAP %" for setup in setups)]]
        for row in rows:
            found = row["landmarks"]["map_percent"]
            cells.append([row["features"], *(percent(found[setup]) for setup in setups)])
        about = rows[0]["landmarks"]
        caption = f"{about['queries']:,} queries in {about['database']:,} images, one scale, no re-ranking."
        tables.append(Table("Landmarks", caption, cells))
    tables += [Table(*parts) for parts in video_tables(results)]
    tables += [Table(*parts) for parts in detection_tables(results)]
    return [*tables, *_of_the_weights(results)]


def _linear_augmented(rows: list[Mapping[str, Any]]) -> Table:
    rates = list(rows[0]["linear_augmented"]["heldout_top1_percent_by_rate"])
    cells = [
        ["features", "top-1 %", "rate", *(f"held out, rate {rate}" for rate in rates), "best on eval", "rate"]
    ]
    for row in rows:
        found = row["linear_augmented"]
        heldout, best = found["heldout_top1_percent_by_rate"], found["best_on_eval"]
        cells.append(
            [
                row["features"],
                percent(found["top1_percent"]),
                f"{found['learning_rate']:g}",
                *(percent(heldout[rate]) for rate in rates),
                percent(best["top1_percent"]),
                f"{best['learning_rate']:g}",
            ]
        )
    caption = (
        "Linear classifiers on the frozen backbone, learned from random crops and flips. The rate is chosen "
        "on a tenth of the bank that the classifiers compared do not learn from; the last two columns choose "
        "it on the evaluation images instead, as published figures do. Run folders are in probes/."
    )
    return Table("Linear probe with augmentation", caption, cells)


def _of_the_weights(results: Mapping[str, Any]) -> list[Table]:
    tables = []
    if "robustness" in results:
        found = results["robustness"]["by_corruption"]
        severities = sorted({severity for by in found.values() for severity in by})
        for key, words in (("knn_top1_percent", "k-NN"), ("linear_top1_percent", "linear")):
            if key not in results["robustness"]["mean"]:
                continue
            cells = [["corruption", *(f"severity {s}" for s in severities)]]
            cells += [[name, *(percent(by[s][key]) for s in severities)] for name, by in found.items()]
            mean = percent(results["robustness"]["mean"][key])
            caption = f"Top-1 % on corrupted images, learned from clean ones; mean {mean}."
            tables.append(Table(f"Robustness, {words}", caption, cells))
    if "statistics" in results:
        about = results["statistics"]
        names = ("rankme", "lidar", "alignment", "uniformity")
        caption = (
            f"Of {about['features']:,} features, {about['images']:,} images, {about['views']} views each."
        )
        tables.append(Table("Statistics", caption, [list(names), [f"{about[name]:.4g}" for name in names]]))
    return tables
