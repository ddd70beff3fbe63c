"""`kind: search`: its space, its points, and everything that is refused before anything starts."""

from __future__ import annotations

from collections import Counter

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import resolved_yaml, run_name, spec_hash
from syn2co_ray.spec.load import build_spec, load_job, load_text
from syn2co_ray.spec.points import corner_points, number_of_points, points_of
from syn2co_ray.spec.trial_specs import point_in_words, trial_values

from .test_load import MINIMAL

BASE = MINIMAL.replace("    - {uri: images}", "    - {uri: images}\n  eval: {uri: other-images}")
SEARCH = """\
kind: search
name: look
metric: knn
trials: 40
base:
{base}
space:
  method.temperature: {{loguniform: [0.05, 0.5]}}
  method.drop_path_online: {{uniform: [0.0, 0.3]}}
  train.images_per_step_global: {{choice: [32, 64]}}
  train.epochs: {{randint: [8, 12]}}
  method.momentum: {{quniform: [0.9, 1.0, 0.05]}}
"""


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())


TEXT = SEARCH.format(base=indented(BASE))
HEAD = TEXT.partition("space:\n")[0]


def with_space(space: str, head: str = HEAD) -> str:
    return head + "space:\n" + "".join(f"  {line}\n" for line in space.strip().splitlines())


def grid(space: str) -> str:
    return with_space(space, HEAD.replace("trials: 40", "searcher: grid"))


def faults(text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


def test_points_are_a_function_of_seed_number_and_key_inside_their_ranges():
    search = load_text(TEXT)
    points = points_of(search)
    assert points == points_of(load_text(TEXT))
    assert points != points_of(load_text(TEXT, ["seed=1"]))
    assert points[:10] == points_of(load_text(TEXT, ["trials=10"]))  # more trials keep those before them
    assert len({str(point) for point in points}) == number_of_points(search) == 40
    assert all(0.05 <= point["method.temperature"] <= 0.5 for point in points)
    assert {point["method.momentum"] for point in points} == {0.9, 0.95, 1.0}
    assert {point["train.epochs"] for point in points} == {8, 9, 10, 11, 12}
    assert {point["train.images_per_step_global"] for point in points} == {32, 64}
    low = sum(point["method.temperature"] < 0.158 for point in points)
    assert 10 <= low <= 30  # half of them, as the logarithm is uniform
    alone = points_of(load_text(with_space("method.temperature: {loguniform: [0.05, 0.5]}")))
    assert [p["method.temperature"] for p in alone] == [p["method.temperature"] for p in points]


def test_grid_is_every_combination_and_what_is_conditional_only_where_it_counts():
    search = load_text(
        grid(
            "method.framework: {grid: [moby, synby]}\n"
            "method.negatives: {grid: [null, {hardest: 8, mixup: 4}], when: {method.framework: synby}}\n"
            "method.temperature: {grid: [0.1, 0.2]}"
        ).replace("negatives: {hardest: 16, interpolated: 8, noise: {count: 4, sigma: 0.01}}", "")
        .replace("framework: synby\n", "framework: moby\n")
        .replace("[null, {", "[{hardest: 8, noise: 4}, {")
    )  # fmt: skip
    points = points_of(search)
    assert [point["method.framework"] for point in points] == ["moby"] * 2 + ["synby"] * 4
    assert Counter("method.negatives" in point for point in points) == {True: 4, False: 2}
    jobs = [build_spec(trial_values(search, point)) for point in points]
    assert [job.method.negatives is None for job in jobs] == [True] * 2 + [False] * 4
    assert point_in_words(points[-1]) == (
        "method.framework=synby method.temperature=0.2 method.negatives={hardest: 8, mixup: 4}"
    )


def test_a_trial_is_an_ordinary_job_and_the_base_stays_as_it_is():
    search = load_text(TEXT)
    point = points_of(search)[3]
    job = build_spec(trial_values(search, point))
    assert job.method.temperature == point["method.temperature"]
    assert search.base == load_text(BASE)
    assert build_spec(trial_values(search, {})) == search.base


def test_base_is_a_file_or_a_file_with_changes(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    space = "space: {train.epochs: {choice: [8, 9]}}\n"
    head = "kind: search\nname: look\nmetric: knn\ntrials: 2\n"
    (tmp_path / "plain.yaml").write_text(head + "base: base.yaml\n" + space)
    assert load_job(tmp_path / "plain.yaml").base == load_text(BASE)
    (tmp_path / "changed.yaml").write_text(head + "base: {base: base.yaml, train: {epochs: 7}}\n" + space)
    changed = load_job(tmp_path / "changed.yaml", ["base.seed=9"])
    assert changed.base == load_text(BASE, ["train.epochs=7", "seed=9"])
    (tmp_path / "base.yaml").write_text(BASE.replace("epochs: 10", "epoch: 10"))
    with pytest.raises(SpecError) as caught:
        load_job(tmp_path / "plain.yaml")
    assert f"{tmp_path / 'base.yaml'}:17: base.train.epoch: unknown key" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "where", "says"),
    [
        ("train.epoch: {choice: [8]}", "space.train.epoch",
         "job.yaml:24: space.train.epoch: train.epoch=8: train.epoch: unknown key"),
        ("train.epochs: {choise: [8]}", "space.train.epochs.choise", "did you mean choice?"),
        ("train.epochs: {choice: [8, ten]}", "space.train.epochs", "train.epochs=ten: train.epochs: got 'ten'"),
        ("method.temperature: {uniform: [-0.1, 0.5]}", "space.method.temperature", "temperature=-0.1"),
        ("train.images_per_step_global: {choice: [64, 20000000]}\nmethod.temperature: {choice: [-1, 0.2]}",
         "space.method.temperature", "(and at "),
        ("data.train.3.uri: {choice: [a]}", "space.data.train.3.uri", "no such list item"),
        ("train.epochs: {choice: [8], randint: [1, 2]}", "space.train.epochs", "choice and randint; allowed: one of"),
        ("train.epochs: {}", "space.train.epochs", "no values"),
        ("train.epochs: {randint: [9, 8]}", "space.train.epochs.randint", "lowest < highest"),
        ("method.temperature: {loguniform: [0, 1]}", "space.method.temperature.loguniform", "above 0"),
        ("method.momentum: {quniform: [0, 1, 0]}", "space.method.momentum.quniform", "step 0"),
        ("train.epochs: {grid: [8, 9]}", "space.train.epochs.grid", "use searcher: grid or choice"),
        ("seed: {choice: [1, 2]}", "space.seed", "as `seeds`"),
        ("method: {choice: [{}]}\nmethod.temperature: {choice: [0.1]}", "space.method.temperature", "lies in method"),
        ("train.epochs: {choice: [8], when: {seed: 1}}", "space.train.epochs.when.seed", "no key of the space"),
        ("train.epochs: {choice: [8], when: {method.momentum: 2}}\nmethod.momentum: {choice: [0.9]}",
         "space.train.epochs.when.method.momentum", "2 is none of its values"),
        ("train.epochs: {choice: [8], when: {method.momentum: 0.9}}\n"
         "method.momentum: {choice: [0.9], when: {train.epochs: 8}}", "space.train.epochs.when", "itself"),
    ],
)  # fmt: skip
def test_what_a_space_cannot_hold_says_which_key_and_which_value(space, where, says):
    assert says in faults(with_space(space))[where]


@pytest.mark.parametrize(
    ("override", "where", "says"),
    [
        ("trials=null", "trials", "missing with searcher random"),
        ("searcher=grid", "trials", "40 with searcher grid"),
        ("searcher=grid", "space.method.temperature.loguniform", "list its values"),
        ("searcher=annealing", "searcher", "'random', 'grid', 'optuna' or 'bohb'"),
        (
            "searcher=bohb",
            "searcher",
            "bohb with scheduler none, and it learns from runs that were stopped early",
        ),
        ("scheduler=bohb", "scheduler.name", "none, asha, asha_promotion, hyperband, median, pbt"),
        ("scheduler=pbt", "scheduler", "missing; allowed: Epochs between two such exchanges"),
        ("scheduler={name: asha, every_epochs: 2}", "scheduler.every_epochs", "unknown key"),
        ("metric=null", "metric", "'knn'"),
        ("base.data.eval=null", "base.data.eval", "missing, and the metric is knn"),
        ("metric=knn_per_gpu_hour", "metric", "of a job without GPUs"),
        ("scheduler=asha", "base.evaluate.knn.every_epochs", "10 of 10 epochs"),
        ("scheduler={name: asha, grace_epochs: 10}", "scheduler.grace_epochs", "less than base.train.epochs"),
        ("base.kind=generate", "base.kind", "pretrain"),
        ("budget={cost: 5}", "budget.price_per_gpu_hour", "missing"),
        ("budget={gpu_hours: 5}", "budget.gpu_hours", "without GPUs"),
        ("nmae=x", "nmae", "did you mean name?"),
    ],
)
def test_what_does_not_go_together_is_refused(override, where, says):
    assert says in faults(TEXT, override)[where]


def test_several_metrics_have_a_first_one_and_directions_of_their_own():
    search = load_text(TEXT, ["metric=[knn, wall_hours, loss]"])
    assert (search.metric, search.metrics) == ("knn", ("knn", "wall_hours", "loss"))
    assert search.directions == (True, False, False)
    assert load_text(TEXT, ["metric=[knn, wall_hours]", "mode=[min, max]"]).directions == (False, True)
    again = load_text(resolved_yaml(search))
    assert spec_hash(again) == spec_hash(search) != spec_hash(load_text(TEXT))
    assert again == search


@pytest.mark.parametrize(
    ("metric", "judged_by"),
    [("knn", "knn"), ("loss", "loss"), ("rankme", "rankme"), ("linear", "knn"), ("wall_hours", "knn")],
)
def test_runs_under_way_are_compared_by_the_metric_where_it_is_known(metric, judged_by):
    assert load_text(TEXT, [f"metric={metric}"]).judged_by == judged_by


@pytest.mark.parametrize("metric", ["linear", "wall_hours"])
def test_early_stopping_by_what_is_known_at_the_end_only_is_refused(metric):
    found = faults(TEXT, "scheduler=asha", f"metric={metric}")
    assert f"asha with metric {metric}, by which runs under way cannot be compared" in found["scheduler"]


def test_early_stopping_by_loss_or_rankme_needs_no_knn_in_between():
    for metric in ("loss", "rankme"):
        assert load_text(TEXT, ["scheduler=asha", f"metric={metric}"]).metric == metric
        assert load_text(
            POPULATION, [*PBT, f"metric={metric}", "base.evaluate.knn.every_epochs=3"]
        ).population


def test_one_metric_keeps_the_folder_it_had_before_there_could_be_several():
    assert load_text(TEXT).metrics is None
    assert spec_hash(load_text(TEXT)).startswith("26563ed9")


@pytest.mark.parametrize(
    ("overrides", "where", "says"),
    [
        (["metric=[knn, knn]"], "metric", "[knn, knn]; allowed: one, or a list of different ones"),
        (["metric=[knn]"], "metric", "[knn]"),
        (["metric=[knn, speed]"], "metric", "got 'speed'"),
        (["metric=[knn, gpu_hours]"], "metric", "gpu_hours of a job without GPUs"),
        (["metric=[loss, knn]", "base.data.eval=null"], "base.data.eval", "the metric is knn"),
        (["metric=[knn, loss]", "mode=max"], "mode", "1 for 2 metrics"),
        (["mode=[max, min]"], "mode", "2 for 1 metrics"),
        (["metric=[knn, loss]", "scheduler=asha", "base.evaluate.knn.every_epochs=2"], "scheduler",
         "a run that is worse in one may be better in another"),
    ],
)  # fmt: skip
def test_several_metrics_that_do_not_go_together_are_refused(overrides, where, says):
    assert says in faults(TEXT, *overrides)[where]


POPULATION = with_space("method.temperature: {uniform: [0.05, 0.5]}").replace("epochs: 10", "epochs: 12")
PBT = ("scheduler={name: pbt, every_epochs: 4}", "base.evaluate.knn.every_epochs=2", "trials=8")


@pytest.mark.parametrize(
    ("override", "where", "says"),
    [
        ("space={method.backbone: {choice: [a, b]}}", "space.method.backbone", "method.backbone in a population"),
        ("space={method.queue_size_features: {choice: [64, 128]}}", "space.method.queue_size_features",
         "allowed: train.optimizer.learning_rate_base"),
        ("space={train.epochs: {randint: [12, 20]}}", "space.train.epochs", "in a population"),
        ("space={train.images_per_step_global: {choice: [32, 64]}}", "space.train.images_per_step_global", "allowed"),
        ("space={augment.recipe: {choice: [byol, moco_v2]}}", "space.augment.recipe", "allowed"),
        ("searcher=optuna", "searcher", "begins with all points at once"),
        ("seeds=2", "seeds", "take over from one another"),
        ("trials=1", "trials", "2 or more"),
        ("metric=linear", "metric", "linear with scheduler pbt"),
        ("scheduler.every_epochs=12", "scheduler.every_epochs", "12 of 12 epochs"),
        ("scheduler.every_epochs=3", "base.evaluate.knn.every_epochs", "a divisor of scheduler.every_epochs; next: use 3"),
        ("scheduler.quantile=0.6", "scheduler.quantile", "0.5"),
        ("scheduler.factors=[1.2, 0.8]", "scheduler.factors", "one below 1, one above"),
    ],
)  # fmt: skip
def test_what_a_population_cannot_do_is_refused(override, where, says):
    assert says in faults(POPULATION, *PBT, override)[where]


def test_all_faults_of_a_population_come_at_once():
    space = "space={train.epochs: {choice: [12]}, method.hidden_features: {choice: [64]}, method.temperature: {choice: [0.1, 0.2]}}"
    found = faults(POPULATION, *PBT, space, "seeds=2", "scheduler.every_epochs=3")
    assert set(found) == {
        "space.train.epochs",
        "space.method.hidden_features",
        "seeds",
        "base.evaluate.knn.every_epochs",
    }


def test_a_population_has_values_that_a_training_can_go_on_with():
    space = (
        "space={train.optimizer.learning_rate_base: {loguniform: [0.001, 0.01]}, "
        "method.negatives.noise.sigma: {uniform: [0.01, 0.1]}, augment.crop_scale: {choice: [[0.2, 1.0], [0.4, 1.0]]}}"
    )
    search = load_text(POPULATION, [*PBT, space])
    assert search.population.quantile == 0.25
    assert load_text(resolved_yaml(search)).population == search.population
    assert load_text(TEXT).population is None


def test_all_faults_come_at_once():
    found = faults(TEXT, "base.train.epoch=3", "trials=0", "budget={wall_hours: -1}")
    assert {"base.train.epoch", "trials", "budget.wall_hours"} <= set(found)
    assert "base.kind" not in found


def test_scheduler_by_its_name_and_loss_is_minimised():
    search = load_text(TEXT, ["scheduler=asha", "base.evaluate.knn.every_epochs=2"])
    assert (search.scheduler.name, search.scheduler.reduction_factor) == ("asha", 3)
    assert search.maximises
    assert not load_text(TEXT, ["metric=loss"]).maximises


@pytest.mark.parametrize(
    "override", ["trials=41", "budget.wall_hours=2", "max_concurrent=2", "retries=5", "base.train.workers=2"]
)
def test_a_search_is_continued_with_more_trials_or_another_budget(override):
    search = load_text(TEXT)
    assert run_name(load_text(TEXT, [override])) == run_name(search) == f"look-{spec_hash(search)[:8]}"


@pytest.mark.parametrize("override", ["seed=1", "seeds=2", "base.train.epochs=11", "metric=loss"])
def test_another_search_has_another_folder(override):
    assert run_name(load_text(TEXT, [override])) != run_name(load_text(TEXT))


def test_resolved_search_is_a_job_file_of_the_same_search():
    search = load_text(TEXT)
    again = load_text(resolved_yaml(search))
    assert spec_hash(again) == spec_hash(search)
    assert points_of(again) == points_of(search)


def test_corners_have_every_end_with_its_condition_met():
    search = load_text(
        with_space(
            "method.temperature: {uniform: [0.1, 0.2]}\n"
            "method.momentum: {uniform: [0.8, 0.9]}\n"
            "method.drop_path_online: {choice: [0.0, 0.1, 0.2]}\n"
            "train.epochs: {randint: [20, 30], when: {method.drop_path_online: 0.2}}"
        )
    )
    points = corner_points(search.space)
    assert {point.get("train.epochs") for point in points} == {None, 20, 30}
    assert all(("train.epochs" in p) == (p["method.drop_path_online"] == 0.2) for p in points)
