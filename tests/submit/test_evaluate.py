"""`kind: evaluate` on real digits: the run's own figures, resuming, warnings, and one page."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torchvision.transforms.functional import normalize, to_tensor

from syn2co_ray.evaluate import measures
from syn2co_ray.evaluate.protocols import Evaluation
from syn2co_ray.evaluate.shard_files import embeddings_of
from syn2co_ray.report.results_table import results_table
from syn2co_ray.report.run_folders import load_runs
from syn2co_ray.spec.errors import CheckpointError, DataError, RunInterrupted, SpecError
from syn2co_ray.spec.identity import run_name
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.submit import evaluate, leaks
from syn2co_ray.submit.evaluate import run_evaluate
from syn2co_ray.train.context import TrainContext

from ..data.sources import png
from ..train.local_run import local_loop, prepared, rows_of
from .local_probes import on_cifar10


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 10 steps: the prepared run and its loop."""
    run = prepared(tmp_path_factory.mktemp("run"), "train.epochs=2")
    loop = local_loop(run)
    loop.run_to_end()
    return run, loop


def job(trained: Any, storage: Path, *overrides: str) -> Any:
    _, loop = trained
    data = loop.job.data
    text = (
        f"kind: evaluate\nname: digits\nseed: {loop.job.seed}\nstorage: {storage}\n"
        f"weights: {{run: {loop.run.store.uri}}}\n"
        f"data: {{eval: {{uri: {data.eval.uri}}}, eval_bank: {{uri: {data.train[0].uri}}}}}\n"
        "knn: {neighbours: [5, 10]}\nlinear: {epochs: 5}\n"
    )
    return load_text(text, overrides)


def said(spec: Any) -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    return run_evaluate(spec, Console(file=out, width=300)), out.getvalue()


def test_figures_are_those_that_the_run_itself_would_give(trained: Any, tmp_path: Path) -> None:
    run, loop = trained
    results, text = said(job(trained, tmp_path))
    evaluation = Evaluation(run.job, run.evaluation.bank, run.evaluation.queries)
    own = evaluation.after_training(
        loop.trainer.method, TrainContext(0, 1, torch.device("cpu"), records=lambda step: iter(()))
    )
    assert own is not None
    assert [row["features"] for row in results["rows"]] == [row["features"] for row in own]
    for row, expected in zip(results["rows"], own, strict=True):
        assert row["knn_top1_percent"] == pytest.approx(expected["knn_top1_percent"], abs=1e-9)
        assert row["linear_top1_percent"] == pytest.approx(expected["linear_top1_percent"], abs=1e-9)
    assert "trained encoder" in text
    assert "k-NN top-1 % (k=5)" in text


def test_a_table_of_two_seeds_needs_no_training_folder(trained: Any, tmp_path: Path) -> None:
    run = prepared(Path(trained[1].run.store.path).parents[1], "train.epochs=2", "seed=4")
    loop = local_loop(run)
    loop.run_to_end()
    for each in (trained[1], loop):
        each.run.write_json("results.json", {"status": "finished", "steps": each.step, "rows": []})
    storage = tmp_path / "evaluations"
    results = [
        said(job(each, storage, "baselines=false", "linear=null", "few_shot={episodes: 5}"))[0]
        for each in (trained, (run, loop))
    ]
    seconds = [row["step_time_s"] for each in (trained[1], loop) for row in rows_of(each.run.store.uri)]
    shutil.rmtree(loop.run.store.path)
    table = results_table(load_runs([str(storage)], ObjectStoreSpec()))
    (row,) = table.rows
    assert (row.seeds, row.framework, row.backbone) == (
        (3, 4),
        "synby",
        "vit_tiny_patch16_224 (embed_dim 32, depth 2, num_heads 2, patch_size 8)",
    )
    assert (row.data, row.epochs) == ("digits/train", "2")
    assert row.data_hash == run.stream.indexes[0].fingerprint[:8]
    assert row.measured_on == f"digits/eval {run.evaluation.queries.indexes[0].fingerprint[:8]}"
    expected = [each["rows"][0]["few_shot"]["5"]["top1_percent"] for each in results]
    assert (row.figures["5-shot"].mean, row.figures["5-shot"].n) == (pytest.approx(np.mean(expected)), 2)
    assert row.hours is not None
    assert row.hours.hours == pytest.approx(sum(seconds) / 2 / 3600)
    assert row.hours.unit == "CPU-hours"


def plain_features(folder: Path, network: torch.nn.Module) -> tuple[np.ndarray, list[str]]:
    """Features and labels of the images in a folder, by Pillow, torchvision and timm alone."""
    table = pa.concat_tables([pq.read_table(path) for path in folder.glob("*.parquet")])
    images = [to_tensor(Image.open(io.BytesIO(image))) for image in table["image"].to_pylist()]
    with torch.no_grad():
        found = network(normalize(torch.stack(images), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return found.numpy(), table["label"].to_pylist()


def test_weights_of_digits_on_another_set_are_worth_what_scikit_learn_finds(
    tmp_path: Path, shared_dir: Path
) -> None:
    """CIFAR-10's JPEGs: k-NN to one image of 600, the probe to 3 points (its optimum has an L2 penalty)."""
    run = prepared(tmp_path / "run", "augment.image_size=32", "method.patch_size=16", "train.epochs=2")
    loop = local_loop(run)
    loop.run_to_end()
    results, _ = said(
        job((run, loop), tmp_path, *on_cifar10(shared_dir, tmp_path, 100, 60), "baselines=false", "linear={}")
    )
    network = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, embed_dim=32, depth=2, num_heads=2
    ).eval()
    network.load_state_dict(loop.trainer.method.encoder.state_dict())
    bank, learnt = plain_features(tmp_path / "cifar10/eval_bank", network)
    asked, truth = plain_features(tmp_path / "cifar10/eval", network)
    (row,) = results["rows"]
    for k in (5, 10):
        nearest = KNeighborsClassifier(k, metric="cosine", weights=lambda away: np.exp((1 - away) / 0.07))
        expected = 100 * nearest.fit(bank, learnt).score(asked, truth)
        assert row["knn_top1_percent"][str(k)] == pytest.approx(expected, abs=0.17)
    scaler = StandardScaler().fit(bank)
    line = LogisticRegression(max_iter=2000).fit(scaler.transform(bank), learnt)
    assert row["linear_top1_percent"] == pytest.approx(
        100 * line.score(scaler.transform(asked), truth), abs=3
    )
    assert results["images"] == {"eval": 600, "eval_bank": 1000, "classes": 10}
    assert results["duplicates"]["what the weights were trained on"] == 0


def test_a_stopped_evaluation_goes_on_with_what_it_has(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(
        trained, tmp_path, "baselines=false", "robustness={corruptions: [contrast], severities: [1, 5]}"
    )

    class StopsAfterThree(evaluate.EvaluationFeatures):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.made, self.say = 0, self.log
            self.log, self.should_stop = self.count, lambda: self.made == 3

        def count(self, line: str) -> None:
            self.made += line.startswith("features")
            self.say(line)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "EvaluationFeatures", StopsAfterThree)
        with pytest.raises(RunInterrupted, match="run the same command"):
            said(spec)
    folder = tmp_path / run_name(spec)
    assert len(list((folder / "features").iterdir())) == 3
    assert not (folder / "results.json").exists()
    results, text = said(spec)
    assert text.count("features: ") == 1
    whole, _ = said(spec.model_copy(update={"storage": str(tmp_path / "other")}))
    assert results["rows"] == whole["rows"]
    assert results["robustness"] == whole["robustness"]
    again, text = said(spec)
    assert again == results
    assert "features: " not in text


@pytest.mark.ray
def test_features_are_the_same_shards_whether_actors_or_this_process_makes_them(
    ray_cluster: Any, trained: Any, tmp_path: Path
) -> None:
    """To 1e-5 of the largest feature: an actor's threads may sum in another order."""
    alone = job(trained, tmp_path / "alone", "robustness={corruptions: [contrast], severities: [5]}")
    by_actors = job(
        trained, tmp_path / "actors", "robustness={corruptions: [contrast], severities: [5]}", "actors=1"
    )
    assert run_name(alone) == run_name(by_actors)
    expected, _ = said(alone)
    results, text = said(by_actors)
    assert "features: " not in text  # the actors left nothing to make
    files = [{p.name: p for p in tmp_path.glob(f"{place}/*/features/*")} for place in ("alone", "actors")]
    assert files[0].keys() == files[1].keys()
    for name, path in files[0].items():
        one, other = (pq.read_table(found[name]) for found in files)
        assert one.drop_columns("embedding").equals(other.drop_columns("embedding")), path
        difference = np.abs(embeddings_of(one) - embeddings_of(other)).max()
        assert difference <= 1e-5 * np.abs(embeddings_of(one)).max()
    for row, other in zip(expected["rows"], results["rows"], strict=True):
        assert other["knn_top1_percent"] == pytest.approx(row["knn_top1_percent"], abs=0.5)


def test_everything_at_once_ends_in_one_page(trained: Any, tmp_path: Path) -> None:
    spec = job(
        trained,
        tmp_path,
        f"data.trained_on=[{{uri: {trained[1].job.data.train[0].uri}}}]",
        "few_shot={episodes: 5}",
        "label_shares={shares: [0.1]}",
        "retrieval=true",
        "robustness={corruptions: [pixelate, shot_noise], severities: [5]}",
        "statistics={images: 40, views: 3}",
        "baselines=false",
    )
    results, _ = said(spec)
    assert results["images"]["classes"] == 10
    assert 1 < results["statistics"]["rankme"] <= 32
    assert 1 <= results["statistics"]["lidar"] <= 32
    assert 0 < results["statistics"]["alignment"] < 2
    assert results["duplicates"] == {
        "data.eval, more than once": 0,
        "data.eval_bank": 0,
        "what the weights were trained on": 0,
    }
    folder = tmp_path / run_name(spec)
    assert json.loads((folder / "results.json").read_text()) == results
    (log,) = (folder / "logs").glob("driver-*.jsonl")
    said_of_it = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["run"], line["process"]) for line in said_of_it} == {(run_name(spec), "driver")}
    assert any(line["message"].startswith("measured: ") for line in said_of_it)
    page = (folder / "report.html").read_text()
    for heading in (
        "Few-shot",
        "Few labels",
        "Retrieval",
        "Robustness, k-NN",
        "Robustness, linear",
        "Statistics",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "shot_noise" in page
    assert f"{results['rows'][0]['retrieval']['map_percent']:.2f}" in page


def test_landmarks_are_searched_by_their_ground_truth(trained: Any, tmp_path: Path) -> None:
    """Digits as landmarks: a query is there itself as junk, and the same file's neighbours are relevant."""
    uri = trained[1].job.data.eval.uri
    keys = [
        key for file in sorted(Path(uri).glob("*.parquet")) for key in pq.read_table(file)["key"].to_pylist()
    ]
    truth = [{"bbx": [0, 0, 8, 8], "easy": [n + 1, n + 2], "hard": [], "junk": [n]} for n in (0, 10)]
    gnd = {"imlist": keys, "qimlist": [keys[0], keys[10]], "gnd": truth}
    (tmp_path / "gnd.json").write_text(json.dumps(gnd))
    landmarks = f"landmarks={{images: {{uri: {uri}}}, ground_truth: {tmp_path}/gnd.json}}"
    spec = job(trained, tmp_path, landmarks, "knn=null", "linear=null", "name=landmarks")
    results, _ = said(spec)
    for row in results["rows"]:
        assert 0 < row["landmarks"]["map_percent"]["easy"] == row["landmarks"]["map_percent"]["medium"] < 100
        assert row["landmarks"]["map_percent"]["hard"] is None
        assert (row["landmarks"]["queries"], row["landmarks"]["database"]) == (2, len(keys))
    assert "<h2>Landmarks</h2>" in (tmp_path / run_name(spec) / "report.html").read_text()


def test_evaluation_images_that_were_trained_on_are_counted_and_said(trained: Any, tmp_path: Path) -> None:
    data = trained[1].job.data
    leaked = tmp_path / "leaked"
    shutil.copytree(data.train[0].uri, leaked)
    for file in Path(data.eval.uri).glob("*.parquet"):
        shutil.copy(file, leaked / f"leak-{file.name}")
    (leaked / "_prepared.json").unlink(missing_ok=True)
    options = ["linear=null", "baselines=false", "knn.neighbours=[1]"]
    results, text = said(job(trained, tmp_path, f"data.eval_bank.uri={leaked}", *options))
    count = results["images"]["eval"]
    assert results["duplicates"]["data.eval_bank"] == count
    assert f"warning: {count} of {count} images of data.eval also stand in data.eval_bank" in text
    assert results["rows"][0]["knn_top1_percent"]["1"] == 100.0
    assert results["duplicates"]["what the weights were trained on"] == 0
    trained_on = [f"data.trained_on=[{{uri: {leaked}}}]", "name=other"]
    results, text = said(job(trained, tmp_path, *trained_on, *options))
    assert results["duplicates"]["what the weights were trained on"] == count
    assert "was not searched" not in text


def test_images_of_the_weights_own_run_are_looked_for(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = trained[1].job.data
    options = ["linear=null", "baselines=false", f"data.eval_bank.uri={data.eval.uri}"]
    on_its_own = job(trained, tmp_path, f"data.eval.uri={data.train[0].uri}", *options)
    results, _ = said(on_its_own)
    count = results["images"]["eval"]
    assert results["duplicates"]["what the weights were trained on"] == count
    monkeypatch.setattr(leaks, "IMAGES_UNASKED_MAX", count - 1)
    results, text = said(job(trained, tmp_path, f"data.eval.uri={data.train[0].uri}", "name=large", *options))
    assert results["duplicates"]["what the weights were trained on"] == 0
    assert f"warning: {data.train[0].uri}, which the weights were trained on, was not searched" in text
    assert f"its {count:,} images are read only if data.trained_on names it" in text


def test_a_folder_belongs_to_one_network_and_bad_images_have_a_limit(trained: Any, tmp_path: Path) -> None:
    spec = job(trained, tmp_path, "baselines=false", "linear=null")
    said(spec)
    begun = tmp_path / run_name(spec) / "provenance.json"
    moved = json.loads(begun.read_text())
    moved["weights"]["digest"] = "0" * 64
    begun.write_text(json.dumps(moved))
    with pytest.raises(CheckpointError, match=r"weights\.step"):
        said(spec)
    broken = tmp_path / "broken"
    for name in ("a", "b"):
        (broken / name).mkdir(parents=True)
        (broken / name / "bad.png").write_bytes(b"\x89PNG broken")
    (broken / "a/good.png").write_bytes(png(1))
    with pytest.raises(DataError, match=r"2 of 3 images cannot be decoded, such as .*quarantine_share_max"):
        said(job(trained, tmp_path, f"data.eval.uri={broken}", "name=bad", "baselines=false"))


def test_ground_truth_and_layers_are_looked_at_before_anything_is_embedded(
    trained: Any, tmp_path: Path
) -> None:
    uri = trained[1].job.data.eval.uri
    (tmp_path / "gnd.json").write_text('{"imlist": []}')
    landmarks = f"landmarks={{images: {{uri: {uri}}}, ground_truth: {tmp_path}/gnd.json}}"
    with pytest.raises(DataError, match="qimlist: Field required"):
        said(job(trained, tmp_path, landmarks))
    without_layers = "weights={random_seed: 0, backbone: pit_ti_224, image_size: 64}"
    with pytest.raises(SpecError, match=r"fine_tune\.layer_decay: 0\.5, but PoolingVision"):
        said(job(trained, tmp_path, without_layers, "fine_tune={layer_decay: 0.5}"))
    assert not list(tmp_path.rglob("features"))


def test_few_shots_that_cannot_be_drawn_show_before_anything_is_learned(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "figures", lambda *given: pytest.fail("a protocol was measured"))
    with pytest.raises(DataError, match=r"0 classes of data\.eval have 20 shots \+ 500 queries"):
        said(job(trained, tmp_path, "few_shot={shots: [20], queries: 500}", "baselines=false"))
