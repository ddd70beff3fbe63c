"""The page of a run: what it shows, what it says is missing, and that it trusts no text."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from syn2co_ray.report.page import duration, figure, render_page, write_report
from syn2co_ray.report.run_files import load_run_files
from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store, publish_bytes, read_bytes
from syn2co_ray.storage.run_layout import eval_file


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._style = False
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        if not self._style:
            self.words.append(data)


def written(folder) -> Page:
    uri = write_report(folder.store)
    assert uri == str(folder.path / "report.html")
    return Page((folder.path / "report.html").read_text(encoding="utf-8"))


def test_finished_run_page_shows_all_parts(finished):
    page = written(finished)
    for text in (
        "digits-synby finished",
        "spec 3fa9c1d2",
        "started 2026-01-02T03:04:05Z",
        "resumed from step 50",
        "k-NN top-1 % 93.06 k = 20",
        "linear top-1 % 96.39",
        "images / s 812",
        "waiting for data 4.8 %",
        "what bounds it since the last start: data wait 5 %: bound by the model",
        "wall time 4 min 34 s",
        "steps 100 10 epochs",
        "trained encoder 94.17 93.06 96.39",
        "random encoder 80.56 78.33 88.61",
        "raw pixels 97.22 not measured not measured",
        "ray 6.1 s first window 2.2 s",
        "Images that could not be read: 1 (0.070 % of all)",
        "train/07#3 s3://bucket/train truncated JPEG train/07#4 12",
        "commit not recorded",
        "torch 2.15.0, ray 2.60.0",
        "ab12cd34 1,437",
        "backbone: vit_tiny_patch16_224",
        "100 steps and 2 evaluations recorded",
    ):
        assert text in page.text
    assert "Not in the run folder" not in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 8


def test_page_needs_nothing_from_outside(finished):
    page = written(finished)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/png;base64,", "#")), (tag, attributes)
    image = next(attributes["src"] for tag, attributes in page.tags if tag == "img")
    assert base64.b64decode(image.partition(",")[2]) == (finished.path / "views.png").read_bytes()
    policy = next(attributes for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy["content"].startswith("default-src 'none'")


def test_text_of_others_is_shown_and_never_obeyed(finished):
    evil = "\"><script>alert('x')</script><img src=http://evil.example/a.png>{{ 7*7 }}"
    finished.write_lines(
        "quarantine.jsonl", [{"key": evil, "source": evil, "reason": evil, "replaced_by": evil}]
    )
    finished.write("spec.yaml", f"name: '{evil.replace(chr(39), chr(39) * 2)}'\n")
    finished.write("results.json", {"status": evil, "rows": [{"features": evil}], "startup_s": {evil: 1.0}})
    finished.write(
        "provenance.json", {"hardware": {evil: evil}, "libraries": {evil: evil}, "data": [{"uri": evil}]}
    )
    finished.write(eval_file(50), '{"step": "' + evil.replace('"', "'") + '"}')
    page = written(finished)
    assert "script" not in {tag for tag, _ in page.tags}
    assert [attributes["src"][:5] for tag, attributes in page.tags if tag == "img"] == ["data:"]
    assert page.text.count("alert('x')") >= 10
    assert "{{ 7*7 }}" in page.text


def test_run_under_way_says_what_is_missing(run_folder):
    run_folder.write("spec.yaml", "name: young\nevaluate: {knn: {neighbours: [10]}}\n")
    run_folder.write_steps(0, 9)
    run_folder.write(eval_file(5), {"step": 5, "epoch": 1, "knn": {"10": 61.25}})
    page = written(run_folder)
    assert "young not finished" in page.text
    assert "Not in the run folder yet: provenance.json , results.json" in page.text
    assert (
        "No results.json: the run is under way, or it stopped without finishing. Last recorded step: 9"
        in page.text
    )
    assert "k-NN top-1 % 61.25 k = 10, after 5 steps" in page.text
    assert "images / s 804 median of the last 10 steps" in page.text
    for absent in ("No picture of views", "None recorded.", "No provenance in the run folder."):
        assert absent in page.text


def test_run_without_a_step_draws_no_curve(run_folder):
    run_folder.write("spec.yaml", "name: newborn\n")
    page = written(run_folder)
    assert page.text.count("not recorded") == 11
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "metrics/steps-*" in page.text


def test_interrupted_run_says_so(finished):
    finished.write("results.json", {"status": "interrupted", "steps": 40})
    page = written(finished)
    assert "digits-synby interrupted" in page.text
    assert "results.json holds no row: nothing was evaluated" in page.text
    assert "images / s not recorded" in page.text


def test_damaged_file_is_named_on_the_page(finished):
    finished.write("results.json", '{"status": ')
    page = written(finished)
    assert "Could not be read and is left out: results.json: Invalid JSON" in page.text
    assert "digits-synby unknown" in page.text
    assert "results.json could not be read." in page.text


def test_long_quarantine_first_fifty_and_the_count(finished):
    finished.write_lines("quarantine.jsonl", ({"key": f"key-{number:03d}"} for number in range(120)))
    page = written(finished)
    assert re.findall(r"key-\d{3}", page.text) == [f"key-{number:03d}" for number in range(50)]
    assert "The first 50 of 120." in page.text


def test_same_folder_same_page(finished):
    now = datetime(2026, 1, 2, tzinfo=UTC)
    pages = [render_page(load_run_files(finished.store), "t", now) for _ in range(2)]
    assert pages[0] == pages[1]
    assert "page written 2026-01-02 00:00 UTC" in Page(pages[0]).text


def test_second_page_replaces_the_first(finished):
    written(finished)
    finished.write("results.json", {"status": "interrupted"})
    assert "digits-synby interrupted" in written(finished).text


def test_page_in_a_store_that_is_no_local_folder():
    store = open_store("memory://report-test/run", ObjectStoreSpec())
    publish_bytes(store, "spec.yaml", b"name: remote\n")
    assert write_report(store) == "memory://report-test/run/report.html"
    assert b"remote" in read_bytes(store, "report.html")


def test_folder_without_a_run_is_refused_and_left_alone(run_folder):
    run_folder.path.mkdir()
    with pytest.raises(StorageError, match="no run in this folder"):
        write_report(run_folder.store)
    assert list(run_folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "not recorded"), (0.034, "0.03 s"), (7.46, "7.5 s"), (200, "3 min 20 s"), (3599.7, "1 h 0 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not recorded"),
        (1437, "1,437"),
        (812.4, "812"),
        (0.01234, "0.0123"),
        ("A10", "A10"),
        (True, "True"),
    ],
)
def test_figure(value, text):
    assert figure(value) == text


def test_room_imports_neither_torch_nor_ray():
    code = (
        "import sys, syn2co_ray.report.page, syn2co_ray.report.table;"
        "print(sorted({'torch', 'ray', 'cv2', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert output.stdout.strip() == "[]"
