from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from syn2co_ray.spec.errors import ClusterError
from syn2co_ray.submit.dashboard import Dashboard, open_dashboard
from syn2co_ray.submit.jobs import find_job, list_jobs
from syn2co_ray.submit.local_node import free_port

TOKEN = "right"
ANSWERS = {
    "/api/version": {"ray_version": "2.60.0"},
    "/api/jobs/": [
        {"submission_id": "b", "status": "RUNNING", "start_time": 2000, "metadata": {"syn2co_run": "tiny"}},
        {"submission_id": None, "job_id": "01", "status": "RUNNING", "start_time": 500},
        {
            "submission_id": "a",
            "status": "FAILED",
            "start_time": 1000,
            "end_time": 9000,
            "driver_exit_code": 3,
        },
    ],
}


class Answering(BaseHTTPRequestHandler):
    """Refuses and answers as Ray's dashboard behind a token does."""

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization")
        if shown is None:
            self.send_error(401)
        elif shown != f"Bearer {TOKEN}":
            self.send_error(403)
        elif self.path not in ANSWERS:
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(ANSWERS[self.path]).encode())

    def log_message(self, *words: object) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch, tmp_path) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_right_token_opens_it(url):
    dashboard = Dashboard(url, TOKEN)
    assert dashboard.ray_version() == "2.60.0"
    assert abs(dashboard.clock_ahead_s()) < 5
    assert TOKEN not in repr(dashboard)


@pytest.mark.parametrize(
    ("token", "says"),
    [(None, "it asks for a token, and none is given"), ("wrong", "does not accept this token")],
)
def test_a_missing_and_a_wrong_token_are_told_apart(url, token, says):
    with pytest.raises(ClusterError, match=says) as caught:
        Dashboard(url, token).ray_version()
    assert "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH" in caught.value.fault.next_step


def test_nobody_at_the_address_says_how_to_get_there():
    with pytest.raises(ClusterError, match="no answer: .*refused") as caught:
        Dashboard(f"http://127.0.0.1:{free_port()}").ray_version()
    assert "kubectl port-forward" in caught.value.fault.next_step


def test_something_else_at_the_address_is_no_dashboard(url):
    with pytest.raises(ClusterError, match="HTTP status 404, not as Ray's dashboard does"):
        Dashboard(url, TOKEN).get("/other")


def test_jobs_are_listed_by_age_without_connections_that_are_no_jobs(url):
    first, second = list_jobs(Dashboard(url, TOKEN))
    assert (first.name, first.exit_code, first.ended_at, first.run) == ("a", 3, 9.0, "")
    assert (second.name, second.run, second.is_over) == ("b", "tiny", False)


def test_an_unknown_job_is_an_error_of_its_own(url):
    with pytest.raises(ClusterError, match="job nothing: .* knows no such job"):
        find_job(Dashboard(url, TOKEN), "nothing")


def test_address_and_token_come_from_the_environment(monkeypatch, tmp_path):
    assert open_dashboard(None) == Dashboard("http://127.0.0.1:8265", None)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of the home folder\n")
    assert open_dashboard(None).token == "of the home folder"
    (tmp_path / "token").write_text("of a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert open_dashboard("http://head:1/").url == "http://head:1"
    assert open_dashboard("http://head:1").token == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    assert open_dashboard(None) == Dashboard("http://elsewhere:8265", "given")


def test_a_token_file_that_is_not_there_and_an_address_of_another_sort_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ClusterError, match="got ray://head:10001"):
        open_dashboard("ray://head:10001")
    with pytest.raises(ClusterError, match="no answer: .*refused"):
        open_dashboard(f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nothing"))
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH: .*No such file"):
        open_dashboard(None)
