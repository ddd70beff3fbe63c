"""Points from best to worst, as rows of a Parquet file."""

from __future__ import annotations

import io

import pyarrow.parquet as pq

from syn2co_ray.search.leaderboard import leaderboard, leaderboard_parquet
from syn2co_ray.spec.load import load_text

from .fakes import Cluster, run_to_end, search_on


def test_points_without_all_their_seeds_come_last_and_loss_ranks_upwards(tmp_path):
    cluster = Cluster()
    cluster.fails = {11: [2, 2]}  # the second seed of the best point
    search, _ = search_on(tmp_path, cluster, "seeds=2")
    run_to_end(search)
    entries = leaderboard(search.spec, search.known.values())
    assert [entry.point_number for entry in entries] == [4, 3, 2, 1, 0, 5]
    assert [entry.rank for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert (entries[-1].status, entries[-1].error, entries[-1].seeds_finished) == ("failed", "no memory", 1)
    worst = leaderboard(search.spec.model_copy(update={"mode": "min"}), search.known.values())
    assert [entry.point_number for entry in worst] == [0, 1, 2, 3, 4, 5]


def test_parquet_has_the_spec_that_makes_each_row_again(tmp_path):
    search, _ = search_on(tmp_path, Cluster(gpus_each=2.0), "budget.price_per_gpu_hour=3")
    run_to_end(search)
    table = pq.read_table(io.BytesIO(leaderboard_parquet(leaderboard(search.spec, search.known.values()))))
    first = table.to_pylist()[0]
    assert table.num_rows == 6
    assert first["value"] == 60
    assert first["deviation"] is None
    assert first["cost"] == first["gpu_hours"] * 3 > 0
    job = load_text(first["spec"])
    assert job.method.temperature == 0.6
    assert first["runs"] == [f"{job.name}-{first['runs'][0].rsplit('-', 1)[1]}"]
