"""The picture in the report: the plan's first records beside the views they are trained on."""

from __future__ import annotations

from ..augment.sheet import views_sheet_png
from ..augment.views import ViewMaker
from ..data.decode import UnreadableImage, decode_rgb
from ..data.index import read_fragments
from ..spec.augment import AugmentSpec
from .prepare import PreparedRun

RECORDS_SHOWN = 8
KEY_END = 10
"""Characters of a key that are shown beside its origin; keys differ most at their end."""


def first_views(prepared: PreparedRun) -> bytes | None:
    """PNG of a few records of the first window, each stored source in turn, with their views of epoch 0.

    None when none of them can be decoded; the workers will say more about that.
    """
    job = prepared.job
    # On the driver there may be no GPU; both backends draw the same parameters.
    maker = ViewMaker(AugmentSpec.model_validate({**job.augment.model_dump(), "backend": "opencv"}), job.seed)
    rows = []
    reads = prepared.plan.window(0).reads
    per_source = RECORDS_SHOWN // max(1, len(prepared.stream.indexes)) or 1
    for source, index in enumerate(prepared.stream.indexes):
        wanted = per_source
        for read in (read for read in reads if read.source == source):
            if wanted <= 0:
                break
            table = read_fragments(index, [(read.fragment, read.rows[:wanted])], job.object_store, threads=1)[
                0
            ]
            rows += table.select(["key", "image", "origin"]).to_pylist()
            wanted -= table.num_rows
    origins = {row["origin"] for row in rows}
    shown = []
    for row in rows:
        try:
            image = decode_rgb(row["image"] or b"", pixels_max=job.data.image_pixels_max)
        except UnreadableImage:
            continue
        views = [view for group in maker([image], [row["key"]], [0], [0]) for view in group[0]]
        name = f"{row['origin']} {row['key'][-KEY_END:]}" if len(origins) > 1 else row["key"]
        shown.append((name, image, views))
    return views_sheet_png(shown) if shown else None
