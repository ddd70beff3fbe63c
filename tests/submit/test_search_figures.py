"""The page of a search of fakes: its figures, with GPUs and without, of failed trials, of one that has none."""

from __future__ import annotations

from syn2co_ray.search.leaderboard import leaderboard
from syn2co_ray.search.records import Records
from syn2co_ray.submit.search_figures import search_curves
from syn2co_ray.submit.search_results import search_store, write_search_results
from tests.search.fakes import TEXT, Cluster, run_to_end, search_on, search_spec

TITLES = ["Values and metric", "Learning curves", "Metric against cost", "Best so far", "Importance of keys"]


def page_of(folder, cluster, *overrides, values="0.1, 0.2, 0.3, 0.4, 0.5, 0.6") -> str:
    text = TEXT.replace("0.1, 0.2, 0.3, 0.4, 0.5, 0.6", values)
    spec = search_spec(folder, *overrides, text=text)
    search, _ = search_on(folder, cluster, *overrides, text=text)
    search.records = Records(search_store(spec))
    run_to_end(search)
    results = write_search_results(spec, search.known, "", search.wall_s)
    return (folder / results["search"] / "search.html").read_text()


def test_a_finished_search_has_every_figure_but_the_importance_of_six_points(tmp_path):
    page = page_of(tmp_path, Cluster())
    assert [page.count(f"<h3>{title}</h3>") for title in TITLES] == [1] * 5
    assert page.count("<svg") == 4
    assert "not known: 6 finished points, 10 or more are needed" in page
    assert "seconds of training" not in page
    assert "minutes of training" in page
    assert page.count("seed 1: ") == 6
    assert "prefers-color-scheme: dark" in page


def test_twelve_finished_points_have_importance_and_gpus_are_the_cost(tmp_path):
    values = ", ".join(f"{0.05 * n:.2f}" for n in range(1, 13))
    page = page_of(tmp_path, Cluster(gpus_each=2.0), values=values)
    assert page.count("<svg") == 5
    assert "fANOVA over 12 finished points" in page
    assert "GPU-hours" in page
    assert "minutes of training" not in page


def test_stopped_and_failed_trials_are_marked(tmp_path):
    cluster = Cluster()
    cluster.fails = {0: [3, 3], 1: [0, 0]}  # after three epochs; before the first
    page = page_of(
        tmp_path,
        cluster,
        "scheduler={name: asha, grace_epochs: 2, reduction_factor: 2}",
        values="0.6, 0.5, 0.1, 0.2",
    )
    assert "stopped early" in page
    assert '<span class="status failed">failed</span>' in page
    assert ", failed\nmethod.temperature=0.6</title>" in page
    assert ", failed\nmethod.temperature=0.5</title>" not in page


def test_a_search_with_nothing_finished_says_so_and_names_no_best(tmp_path):
    spec = search_spec(tmp_path)
    results = write_search_results(spec, {}, "", 0.0)
    page = (tmp_path / results["search"] / "search.html").read_text()
    assert page.count("nothing measured yet") == 4
    assert "no trial has started" in page
    assert '<span class="status not-finished">not finished</span>' in page
    search, _ = search_on(tmp_path, Cluster())
    for minute in range(3):
        search.step(60.0 * minute)
    known = list(search.known.values())
    under_way = search_curves(spec, known, leaderboard(spec, known))
    assert "not ended" in under_way[1].svg
    assert under_way[3].svg is None  # no trial has reached an end
