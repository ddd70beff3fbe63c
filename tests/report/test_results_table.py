"""One table of many runs: what is a repeat of what, and that no run is dropped without a word."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from syn2co_ray.report.results_formats import as_csv, as_latex, as_markdown, as_text, latex
from syn2co_ray.report.results_table import ResultsTable, results_table
from syn2co_ray.report.run_folders import load_runs
from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.load import build_spec
from syn2co_ray.spec.source import ObjectStoreSpec

from .conftest import PROVENANCE, RESULTS, RunFolder

JOB: dict[str, Any] = {
    "kind": "pretrain",
    "name": "digits",
    "seed": 0,
    "storage": "runs",
    "data": {"train": [{"uri": "s3://bucket/imagenet/train"}], "eval": {"uri": "s3://bucket/imagenet/val"}},
    "augment": {"recipe": "byol", "image_size": 224},
    "method": {"framework": "moby", "backbone": "deit_small_patch16_224", "drop_path_online": 0.2},
    "train": {
        "images_per_step_global": 64,
        "epochs": 300,
        "workers": {"min": 4, "max": 4, "gpus_each": 1},
    },
}


def make_run(folder: Path, **changes: Any) -> RunFolder:
    """A finished run; keyword `spec`, `results`, `provenance`, `linear` change what it holds."""
    run = RunFolder(folder)
    spec = resolved(build_spec(JOB)) | changes.get("spec", {})
    run.write("spec.yaml", yaml.safe_dump(spec))
    rows = [
        {"features": "trained encoder", "knn_top1_percent": {"10": 60.0, "200": 50.0}}
        | {"linear_top1_percent": changes.get("linear", 70.0)},
        {"features": "raw pixels", "knn_top1_percent": {"10": 20.0}},
    ]
    run.write("results.json", RESULTS | {"rows": rows, "device": "cuda"} | changes.get("results", {}))
    run.write(
        "provenance.json", PROVENANCE | {"git_commit": "0123456789abcdef"} | changes.get("provenance", {})
    )
    run.write_steps(1, 18, step_time_s=100.0, workers=2)
    return run


def table_of(folder: Path, baselines: bool = False) -> ResultsTable:
    return results_table(load_runs([str(folder)], ObjectStoreSpec()), baselines)


def test_seeds_of_one_spec_are_one_row_with_mean_and_deviation(tmp_path: Path) -> None:
    for seed, linear in enumerate((70.0, 71.0, 73.0)):
        make_run(tmp_path / f"digits-{seed}", spec={"seed": seed, "name": f"digits-s{seed}"}, linear=linear)
    (row,) = table_of(tmp_path).rows
    assert row.seeds == (0, 1, 2)
    linear = row.figures["linear"]
    assert (linear.mean, linear.deviation, linear.n) == (mean((70, 71, 73)), stdev((70, 71, 73)), 3)
    assert row.figures["k-NN k=10"].deviation == 0.0
    assert row.commits == ("01234567",)
    assert row.data_hash == "ab12cd34"


def test_other_settings_and_other_data_are_rows_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(
        tmp_path / "b",
        spec={"seed": 1, "augment": resolved(build_spec(JOB))["augment"] | {"crop_scale": [0.3, 1.0]}},
    )
    data = [PROVENANCE["data"][0] | {"fingerprint": "ffff"}]
    make_run(tmp_path / "c", spec={"seed": 2}, provenance={"data": data})
    make_run(tmp_path / "d", spec={"seed": 3, "storage": "elsewhere"})
    assert [row.seeds for row in table_of(tmp_path).rows] == [(0, 3), (1,), (2,)]


def test_what_is_in_no_row_is_named_with_its_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "a-finished")
    make_run(tmp_path / "b-again")
    make_run(tmp_path / "c-stopped", spec={"seed": 5}, results={"status": "interrupted", "steps": 18})
    make_run(tmp_path / "d-under-way").path.joinpath("results.json").unlink()
    make_run(tmp_path / "e-broken").write("results.json", "{")
    make_run(tmp_path / "f-no-yaml").write("spec.yaml", "a: [")
    make_run(tmp_path / "g-not-evaluated", results={"rows": []})
    table = table_of(tmp_path)
    assert [row.runs for row in table.rows] == [(str(tmp_path / "a-finished"),)]
    reasons = {left.uri.rsplit("/", 1)[-1]: left.reason for left in table.left_out}
    assert list(reasons) == [
        "b-again",
        "c-stopped",
        "d-under-way",
        "e-broken",
        "f-no-yaml",
        "g-not-evaluated",
    ]
    assert "repeats seed 0 of" in reasons["b-again"]
    assert reasons["c-stopped"] == "interrupted after step 18"
    assert "last recorded step 18" in reasons["d-under-way"]
    assert reasons["e-broken"].startswith("results.json: ")
    assert reasons["f-no-yaml"].startswith("spec.yaml: not YAML")
    for write in (as_text, as_markdown, as_latex, as_csv):
        assert all(name.split("-")[0] in write(table) for name in reasons)
    assert as_csv(table).count("left out") == len(reasons)


def test_an_empty_place_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no run below this folder"):
        load_runs([str(tmp_path)], ObjectStoreSpec())


@pytest.mark.parametrize(
    "place", ["local", pytest.param("s3", marks=pytest.mark.object_store)], indirect=True
)
def test_a_folder_of_runs_and_a_search_stand_for_what_is_below_them(tmp_path: Path, place: str) -> None:
    from syn2co_ray.storage import open_store, publish_file

    made = tmp_path / "made"
    make_run(made / "one" / "digits-1")
    make_run(made / "search-2" / "trials" / "digits-3", spec={"seed": 3})
    RunFolder(made / "search-2").write("spec.yaml", "kind: search")
    RunFolder(made / "search-2").write("results.json", {"status": "finished", "entries": []})
    RunFolder(made / "set").write("dataset.json", "{}")
    store = open_store(place, ObjectStoreSpec())
    for path in sorted(made.rglob("*")):
        if path.is_file():
            publish_file(store, str(path.relative_to(made)), path)
    runs = load_runs([place, store.child("search-2/trials").uri], ObjectStoreSpec())
    assert [run.uri for run in runs] == [
        store.child(path).uri for path in ("one/digits-1", "search-2/trials/digits-3")
    ]
    assert results_table(runs).rows[0].seeds == (0, 3)


def test_hours_are_those_of_the_workers_of_each_step(tmp_path: Path) -> None:
    make_run(tmp_path / "gpu")
    hours = table_of(tmp_path / "gpu").rows[0].hours
    assert hours is not None
    assert (hours.hours, hours.unit) == (18 * 100.0 * 2 / 3600, "GPU-hours")
    train = resolved(build_spec(JOB))["train"]
    on_cpu = train | {"workers": {"min": 2, "max": 2, "cpus_each": 0.5, "gpus_each": 0.0}}
    make_run(tmp_path / "cpu", spec={"train": on_cpu}, results={"device": "cpu"})
    table = table_of(tmp_path / "cpu")
    hours = table.rows[0].hours
    assert hours is not None
    assert (hours.hours, hours.unit) == (0.5, "CPU-hours")
    assert "CPU-hours where the workers held no GPU" in as_text(table)


@pytest.mark.parametrize(
    ("images", "changes", "linear"),
    [
        (1_281_167, {}, "72.8"),
        (1_281_166, {}, None),
        (1_281_167, {"train": {"epochs": 299}}, None),
        (1_281_167, {"method": {"drop_path_online": 0.1}}, None),
        (1_281_167, {"method": {"framework": "moco_v3", "drop_path_online": 0.0}}, "72.5"),
    ],
)
def test_a_published_figure_stands_only_beside_its_own_recipe(
    tmp_path: Path, images: int, changes: dict[str, Any], linear: str | None
) -> None:
    spec = {name: JOB[name] | values for name, values in changes.items()}
    make_run(
        tmp_path / "run",
        spec=resolved(build_spec(JOB | spec)),
        provenance={"data": [PROVENANCE["data"][0] | {"records": images}]},
    )
    table = table_of(tmp_path, baselines=True)
    published = table.rows[0].published
    assert (published["linear"].figure if published else None) == linear
    assert not table.rows[1].published
    assert ("published linear" in as_text(table)) == (linear is not None)
    assert ("Published, " in as_text(table)) == (linear is not None)


def test_a_figure_that_only_some_seeds_have_says_of_how_many(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", spec={"seed": 1}, linear=None)
    assert "70.00 (n=1)" in as_text(table_of(tmp_path))


HOSTILE = r"a_b & 50% #1 {x} \input{/etc/passwd} ~^<b>|$\pm$"


def test_names_are_escaped_in_each_format(tmp_path: Path) -> None:
    make_run(tmp_path / "run", spec={"name": HOSTILE + "\n\\end{tabular}"})
    table = table_of(tmp_path)
    tex = as_latex(table)
    assert r"a\_b \& 50\% \#1 \{x\} \textbackslash{}input\{/etc/passwd\}" in tex
    assert tex.count("\\end{tabular}") == 1
    markdown = as_markdown(table)
    header, rule, row = markdown.splitlines()[:3]
    assert row.replace("\\|", "").count("|") == header.count("|") == rule.count("|")
    assert "\\<b\\>" in row
    assert latex("± é") == r"$\pm$ é"


def test_csv_is_read_back_with_all_digits_and_no_formula(tmp_path: Path) -> None:
    make_run(tmp_path / "a", linear=70.123456789, spec={"name": "=cmd()"})
    make_run(tmp_path / "b", linear=71.0, spec={"seed": 1, "name": "=cmd()"})
    table = table_of(tmp_path)
    (row,) = csv.DictReader(io.StringIO(as_csv(table)))
    assert float(row["linear mean"]) == table.rows[0].figures["linear"].mean
    assert float(row["linear deviation"]) == table.rows[0].figures["linear"].deviation
    assert (row["linear n"], row["seeds"], row["status"]) == ("2", "0 1", "finished")
    assert row["run"] == "'=cmd()"
    assert row["runs"].split() == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_run_that_a_newer_version_wrote_is_still_a_row(tmp_path: Path) -> None:
    make_run(tmp_path / "a", spec={"a_new_key": 1})
    make_run(tmp_path / "b", spec={"a_new_key": 1, "seed": 1})
    assert [row.seeds for row in table_of(tmp_path).rows] == [(0, 1)]
    shutil.rmtree(tmp_path / "b")
    make_run(tmp_path / "b", spec={"a_new_key": 2, "seed": 1})
    assert [row.seeds for row in table_of(tmp_path).rows] == [(0,), (1,)]
