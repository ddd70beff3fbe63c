"""`kind: evaluate` with videos: figures in results and page, a stop between, and early refusals."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from syn2co_ray.report.protocols import figures_of
from syn2co_ray.report.run_files import ResultRow
from syn2co_ray.spec.errors import DataError, RunInterrupted, SpecError
from syn2co_ray.spec.identity import run_name, spec_hash
from syn2co_ray.spec.load import load_text
from syn2co_ray.submit import evaluate
from syn2co_ray.submit.evaluate import run_evaluate

from ..data.sources import png
from ..evaluate.video.clips import write_clip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(2):
                (tmp_path / part / label / f"{number}.png").write_bytes(png(number))
    for name in ("first", "second"):
        write_clip(tmp_path / "davis", name, frames=4)
    return tmp_path


def job(root: Path, *overrides: str) -> Any:
    text = f"""\
kind: evaluate
name: videos
storage: {root}/out
weights:
  random_seed: 0
  backbone: vit_tiny_patch16_224
  image_size: 32
  patch_size: 8
  backbone_options: {{embed_dim: 32, depth: 2, num_heads: 2}}
data: {{eval: {{uri: {root}/val}}, eval_bank: {{uri: {root}/train}}}}
knn: {{neighbours: [1]}}
linear: null
video_segmentation: {{uri: {root}/davis, shorter_side_pixels: 64}}
"""
    return load_text(text, overrides)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=300)


def test_videos_are_in_results_page_and_table(root: Path) -> None:
    spec = job(root)
    results = run_evaluate(spec, quiet())
    found = results["video_segmentation"]
    assert list(found["rows"]) == ["random encoder", "first mask, kept"]
    assert found["tokens"] == "last map, 8 pixels a token, 32 features"
    assert (found["objects"], found["frames_measured"]) == (4, 4)
    own, pixels = results["rows"]
    assert own["video_segmentation"] == found["rows"]["random encoder"]
    assert "video_segmentation" not in pixels
    by_name = figures_of(ResultRow.model_validate(own))
    assert by_name["video J&F"] == found["rows"]["random encoder"]["jf_mean_percent"]
    folder = root / "out" / run_name(spec)
    assert json.loads((folder / "results.json").read_text()) == results
    page = (folder / "report.html").read_text()
    assert "<h2>Video object segmentation</h2>" in page
    assert "<h2>Video object segmentation, by sequence</h2>" in page
    assert "<td>second</td>" in page
    assert 'src="data:image/jpeg;base64,/9j/' in page
    assert (folder / "video_segmentation.jpg").read_bytes().startswith(b"\xff\xd8")


def test_a_stop_keeps_whole_videos(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = job(root, "baselines=false")

    class StopsAfterOneVideo(evaluate.EvaluationFeatures):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.told, self.say = 0, self.log
            self.log, self.should_stop = self.count, lambda: self.told > 0

        def count(self, line: str) -> None:
            self.told += line.startswith("video 1 of 2")
            self.say(line)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "EvaluationFeatures", StopsAfterOneVideo)
        with pytest.raises(RunInterrupted, match="whole videos stay"):
            run_evaluate(spec, quiet())
    kept = root / "out" / run_name(spec) / "video_segmentation/random-encoder"
    assert [path.name.split("-")[0] for path in kept.iterdir()] == ["first"]
    before = next(kept.iterdir()).stat().st_mtime_ns
    results = run_evaluate(spec, quiet())
    assert list(results["video_segmentation"]["rows"]) == ["random encoder"]
    assert len(list(kept.iterdir())) == 2
    assert next(kept.glob("first-*")).stat().st_mtime_ns == before


def test_what_cannot_be_done_is_refused_before_anything_is_computed(root: Path) -> None:
    (root / "davis/Annotations/480p/second/00000.png").unlink()
    with pytest.raises(DataError, match="no mask of the first frame"):
        run_evaluate(job(root), quiet())
    with pytest.raises(SpecError, match=r"video_segmentation\.token_pixels: 16 pixels a token"):
        run_evaluate(job(root, "video_segmentation.token_pixels=16"), quiet())
    assert not list((root / "out").rglob("features"))


def test_videos_alone_are_something_and_the_protocol_names_the_folder(root: Path) -> None:
    assert job(root, "knn=null").video_segmentation.top_k == 5
    without = job(root, "video_segmentation=null")
    assert spec_hash(job(root)) != spec_hash(without)
    assert spec_hash(job(root)) != spec_hash(job(root, "video_segmentation.temperature=0.2"))
    with pytest.raises(SpecError, match="at least one protocol"):
        job(root, "knn=null", "video_segmentation=null")


def test_a_damaged_mask_of_the_last_video_shows_before_anything_is_computed(root: Path) -> None:
    (root / "davis/Annotations/480p/second/00003.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"second/00003\.png"):
        run_evaluate(job(root), quiet())
    assert not list((root / "out").rglob("features"))
    assert not list((root / "out").rglob("video_segmentation"))
