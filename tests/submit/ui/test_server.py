"""A real server on a free port: what it shows, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from syn2co_ray.storage import publish_file
from syn2co_ray.submit.ui import views
from syn2co_ray.submit.ui.cluster_state import ClusterState, NodeState

from ...report.conftest import PNG, RunFolder
from .conftest import HOSTILE, Client, Serve, basic, store_of

ADDRESSES = (
    "/",
    "/run/0/digits-synby-3fa9c1d2",
    "/run/0/under-way-11111111",
    "/search/0/search-44444444",
    "/search-page/0/search-44444444",
    "/data/0/generated",
    "/compare?run=0/digits-synby-3fa9c1d2",
    "/nowhere",
)


def test_the_list_shows_every_place_with_status_and_newest_figures(client: Client) -> None:
    page = client.ask("/").text
    rows = {
        name: row for row in page.split("<tr>") for name in re.findall(r'name="run" value="0/([^"]+)"', row)
    }
    assert set(rows) == {
        "digits-synby-3fa9c1d2",
        "under-way-11111111",
        "broken-22222222",
        "hostile-33333333",
    }
    assert "93.06" in rows["digits-synby-3fa9c1d2"]
    assert "96.39" in rows["digits-synby-3fa9c1d2"]
    assert "status finished" in rows["digits-synby-3fa9c1d2"]
    assert "under way" in rows["under-way-11111111"]
    assert "61.25" in rows["under-way-11111111"]
    assert "unreadable" in rows["broken-22222222"]
    assert "spec.yaml is not YAML" in rows["broken-22222222"]
    assert "/search/0/search-44444444" in page
    assert "pets" in page
    assert "512 images" in page


def test_runs_under_way_have_curves_and_the_page_comes_again(client: Client) -> None:
    answer = client.ask("/")
    assert answer.headers["refresh"] == "15"
    assert "refresh" not in client.ask("/?still").headers
    points = re.search(r'aria-label="loss"><polyline points="([^"]+)"', answer.text)
    assert points is not None
    assert len(points[1].split()) == 40
    assert client.ask("/run/0/under-way-11111111").headers["refresh"] == "15"
    assert "refresh" not in client.ask("/run/0/digits-synby-3fa9c1d2").headers


def test_a_run_has_its_report_a_search_its_leaderboard_a_data_set_its_card(client: Client) -> None:
    report = client.ask("/run/0/digits-synby-3fa9c1d2").text
    assert "Resolved spec" in report
    assert "all runs</a>" in report
    search = client.ask("/search/0/search-44444444").text
    assert "71.5" in search
    assert "method.framework=moby" in search
    assert "/run/0/search-44444444/trials/trial-55555555" in search
    assert "Resolved spec" in client.ask("/run/0/search-44444444/trials/trial-55555555").text
    assert "the whole search" in client.ask("/search-page/0/search-44444444").text
    card = client.ask("/data/0/generated").text
    assert "# pets" in card
    assert "3 flat" in card
    picture = re.search(r'src="(/picture/[^"]+)"', card)
    assert picture is not None
    answer = client.ask(picture[1])
    assert (answer.body, answer.headers["content-type"]) == (PNG, "image/png")


def test_chosen_runs_are_compared(client: Client) -> None:
    page = client.ask("/compare?run=0/digits-synby-3fa9c1d2&run=0/under-way-11111111").text
    assert "Loss of all" in page
    assert "no results.json: under way" in page
    assert client.ask("/compare").status == 400
    assert client.ask("/compare?" + "&".join(f"run=0/{n}" for n in range(9))).status == 400


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_page_has_a_script_and_each_forbids_them(client: Client, address: str) -> None:
    answer = client.ask(address)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; img-src 'self' data:;")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]
    assert "<script" not in answer.text
    assert "<img src=x" not in answer.text
    assert not re.findall(r"""(?:src|href|action)=["'](?!/|#|data:)""", answer.text)


@pytest.mark.parametrize(
    "address",
    [
        "/run/0/../secret.json",
        "/run/0/..%2f..%2fetc",
        "/run/0/%2e%2e/",
        "/run/0//etc",
        "/run/0/digits-synby-3fa9c1d2/../../",
        "/run/0/digits-synby-3fa9c1d2%00",
        "/run/0/search-44444444",
        "/run/1/digits-synby-3fa9c1d2",
        "/run/99999999999999999999/x",
        "/run/-1/digits-synby-3fa9c1d2",
        "/data/0/",
        "/picture/0/digits-synby-3fa9c1d2?name=../secret.png",
        "/picture/0/digits-synby-3fa9c1d2?name=../../secret.png",
        "/picture/0/digits-synby-3fa9c1d2?name=spec.yaml",
        "/picture/0/generated?name=_report/../../secret.png",
        "/picture/0/?name=secret.png",
        "/compare?run=0/../../etc",
        "/compare?run=../secret.json",
        "/static/../../secret.json",
    ],
)
def test_nothing_but_places_that_were_listed_can_be_asked_for(client: Client, address: str) -> None:
    answer = client.ask(address)
    assert answer.status == 404
    assert b"secret" not in answer.body.replace(b"secret.png", b"").replace(b"secret.json", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_is_only_read(client: Client, method: str) -> None:
    answer = client.ask("/", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_another_name_for_this_machine_is_refused(client: Client) -> None:
    assert client.ask("/", Host="attacker.example:8501").status == 421
    assert client.ask("/", Host="127.0.0.1.attacker.example").status == 421
    assert client.ask("/", Host="LOCALHOST:1").status == 200
    assert client.ask("/" + "a" * 9000).status == 414


def test_a_token_is_asked_for_and_has_to_be_right(serve: Serve, storage: Path) -> None:
    token = "0123456789abcdef"
    client = serve(str(storage), token=token)
    refused = client.ask("/")
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    for wrong in (basic("x"), basic(""), "Basic ???", f"Bearer {token}", basic(token + "0")):
        assert client.ask("/", Authorization=wrong).status == 401
    assert client.ask("/", Authorization=basic(token)).status == 200


def test_a_storage_that_cannot_be_listed_is_named_beside_the_others(
    serve: Serve, storage: Path, tmp_path
) -> None:
    (tmp_path / "file").write_text("")
    client = serve(str(storage), "memory://nothing/there")
    page = client.ask("/").text
    assert "digits-synby-3fa9c1d2" in page
    assert "memory://nothing/there" in page


def test_a_run_with_too_many_metrics_shows_the_report_it_has_left(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "METRICS_BYTES_MAX", 1000)
    for name in ("with-report", "without"):
        RunFolder(tmp_path / name).write_steps(1, 40)
        RunFolder(tmp_path / name).write("spec.yaml", "name: large")
    stored = '<meta http-equiv="refresh" content="0; url=http://elsewhere.example"><main>as it was</main>'
    RunFolder(tmp_path / "with-report").write("report.html", stored)
    client = serve(str(tmp_path))
    answer = client.ask("/run/0/with-report")
    assert "as it was" in answer.text
    assert answer.headers["content-security-policy"].endswith("; sandbox")
    assert client.ask("/run/0/without").status == 413
    assert client.ask("/compare?run=0/without").status == 413


def test_an_evaluation_shows_the_page_it_has_left(serve: Serve, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "digits-probes")
    run.write("spec.yaml", "kind: evaluate\nname: digits-probes")
    run.write("results.json", {"status": "finished", "rows": [], "wall_s": 1.0})
    run.write("report.html", "<html><body><main><h1>all protocols</h1></main></body></html>")
    page = serve(str(tmp_path)).ask("/run/0/digits-probes").text
    assert "all protocols" in page
    assert "all runs</a>" in page
    assert "images/s" not in page


@pytest.mark.parametrize("damaged", ["[1]\n", '{"step": 1\n', '{"1": 2}\n'])
def test_damaged_metrics_of_one_run_leave_the_list_readable(
    serve: Serve, tmp_path: Path, damaged: str
) -> None:
    RunFolder(tmp_path / "whole").write_finished()
    run = RunFolder(tmp_path / "damaged")
    run.write("spec.yaml", "name: damaged")
    run.write("metrics/steps-000000001.jsonl", damaged)
    answer = serve(str(tmp_path)).ask("/")
    assert answer.status == 200
    assert "93.06" in answer.text


@pytest.mark.ray
def test_the_list_shows_the_cluster_that_ray_address_names(
    serve: Serve, storage: Path, ray_cluster, cluster_address: str
) -> None:
    page = serve(str(storage)).ask("/").text
    assert f'Cluster <span class="soft small"><code>{cluster_address}</code>' in page
    assert "<b>1 node</b>" in page
    (row,) = cluster_rows(page)
    assert cluster_address.rpartition(":")[0] in row
    assert re.search(rf"[\d.]+ of {ray_cluster.cpus:g}</td>", row)
    assert "digits-synby-3fa9c1d2" in page


def cluster_rows(page: str) -> list[str]:
    """Rows of the table of nodes."""
    table = page.partition("CPUs in use</th>")[2].partition("</table>")[0]
    return table.partition("<tbody>")[2].split("</tr>")[:-1]


def test_the_list_shows_nodes_that_work_come_and_failed(
    serve: Serve, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = (
        NodeState("10.0.0.2", "train-spot", "running", 3.0, 8.0, 2.0, 4.0),
        NodeState("10.0.0.3", HOSTILE, "idle", 0.0, 0.0, 0.0, 0.0),
    )
    totals = {"CPU": (3.0, 8.0), "GPU": (2.0, 4.0)}
    state = ClusterState("head:6379", nodes, ("2 x train-spot",), (f"1 x {HOSTILE}",), 5, "", totals)
    monkeypatch.setattr(views, "cluster_state", lambda: state)
    page = serve(str(storage)).ask("/").text
    first, second = cluster_rows(page)
    for shown in ("10.0.0.2", "train-spot", "running", "3 of 8", "2 of 4", "width: 37.5%"):
        assert shown in first
    assert "width: 0%" in second
    assert "<b>2 nodes</b>" in page
    assert "3 of 8 CPUs, 2 of 4 GPUs in use" in page
    assert "5 requests wait for room." in page
    assert "Coming: 2 x train-spot" in page
    assert "Failed: 1 x &lt;img" in page
    assert HOSTILE not in page


def test_a_head_that_does_not_answer_is_said_and_the_runs_are_there_all_the_same(
    serve: Serve, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ClusterState("head:6379", fault="its head does not answer")
    monkeypatch.setattr(views, "cluster_state", lambda: gone)
    page = serve(str(storage)).ask("/").text
    assert '<p class="absent">its head does not answer</p>' in page
    assert cluster_rows(page) == []
    assert "digits-synby-3fa9c1d2" in page


@pytest.mark.object_store
def test_a_storage_in_s3_is_shown_like_a_local_one(serve: Serve, storage: Path, s3_environment) -> None:
    uri = f"{s3_environment.make_bucket('ui-runs')}/runs"
    for path in sorted(storage.rglob("*")):
        if path.is_file():
            publish_file(store_of(uri), str(path.relative_to(storage)), path)
    client = serve(uri)
    page = client.ask("/").text
    assert "93.06" in page
    assert "under way" in page
    assert "71.5" in client.ask("/search/0/search-44444444").text
    assert client.ask("/picture/0/generated?name=_report/contact_sheet.png").body == PNG
