"""The pages: each is a function of a request that returns HTML, or a picture."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ...generate.data_set import CARD_FILE, DATASET_FILE, MANIFEST_FILE, REPORT_FOLDER, SHEET_FILE
from ...report.comparison_page import RUNS_DRAWN_MAX, render_comparison_page
from ...report.page import duration, figure, packaged_text, render_page
from ...report.run_files import load_run_files
from ...report.run_folders import Place, read_runs
from ...search.leaderboard import ranking
from ...search.records import Records
from ...spec.errors import StorageError, Syn2coError
from ...spec.load import build_spec
from ...spec.search import SearchSpec
from ...storage import read_bytes
from ...storage.run_layout import REPORT_FILE, RESULTS_FILE, SAMPLES_FILE, SPEC_FILE, VIEWS_FILE
from .cache import Cache
from .cluster_state import SHOWN_FOR_S, cluster_state
from .guard import STORED_PAGE_POLICY
from .sparkline import sparkline
from .storages import Seen, Storages, bounded_bytes
from .summaries import (
    KINDS_WITHOUT_STEPS,
    METRICS_BYTES_MAX,
    UNDER_WAY_S,
    LiveCurves,
    Summary,
    live_curves,
    metrics_bytes,
    summary,
)

REFRESH_S = 15
RUNS_SHOWN_MAX, LIVE_SHOWN_MAX = 300, 6
SUMMARY_FOR_S, FINISHED_FOR_S = 5.0, 3600.0
READS_AT_ONCE = 8
SEARCH_PAGE = "search.html"
PICTURES = (VIEWS_FILE, SAMPLES_FILE, f"{REPORT_FOLDER}/{SHEET_FILE}")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DRAWING = threading.Lock()
"""matplotlib keeps its style in one place for all threads."""


class Views:
    """Everything that is served, from some storages."""

    def __init__(self, storages: Storages, cache: Cache) -> None:
        self.storages, self.cache = storages, cache
        self._pages = jinja2.Environment(
            loader=jinja2.PackageLoader(__package__, "pages"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters.update(duration=duration, figure=figure)
        self._pages.globals.update(
            link=link, style=Markup(packaged_text("style.css.j2")), own_style=Markup(self._text("ui.css.j2"))
        )

    def home(self, request: Request) -> Response:
        """All runs, searches and data sets, runs under way with their curves, and the cluster."""
        seen = self.storages.places()
        runs = [each for each in seen if each.place.kind == "run" and not _is_trial(each.place)]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            summaries = list(pool.map(self._summary, runs[:RUNS_SHOWN_MAX]))
        live = [each for each in summaries if each.is_under_way][:LIVE_SHOWN_MAX]
        still = "still" in request.query_params
        page = self._rendered(
            "home.html.j2",
            summaries=summaries,
            left=len(runs) - len(summaries),
            live=[(each, *self._sparklines(each)) for each in live],
            searches=[(each, self._search_status(each)) for each in seen if each.place.kind == "search"],
            data_sets=[(each, self._data_set(each)) for each in seen if each.place.kind == "data set"],
            listings=self.storages.listings(),
            cluster=self.cache.get("cluster", SHOWN_FOR_S, cluster_state),
            compared_max=RUNS_DRAWN_MAX,
            still=still,
            refresh_s=REFRESH_S,
        )
        return HTMLResponse(page, headers={} if still or not live else {"Refresh": str(REFRESH_S)})

    def run(self, request: Request) -> Response:
        """A run's report from what its folder holds now; it follows a run that is under way."""
        seen = self._seen(request, "run")
        known = self._summary(seen)
        key = ("run", seen.place.store.uri, seen.place.modified_ns)
        kept_s = FINISHED_FOR_S if known.status == "finished" else SUMMARY_FOR_S
        page, is_stored = self.cache.get(key, kept_s, lambda: self._report(seen))
        if is_stored or not known.is_under_way:
            return HTMLResponse(page, headers={"content-security-policy": STORED_PAGE_POLICY})
        return HTMLResponse(page, headers={"Refresh": str(REFRESH_S)})

    def compare(self, request: Request) -> Response:
        """Several runs on one page: `?run=<storage>/<path>`, once for each."""
        wanted = request.query_params.getlist("run")
        if not wanted:
            raise HTTPException(400, "choose the runs to compare in the list")
        if len(wanted) > RUNS_DRAWN_MAX:
            raise HTTPException(400, f"at most {RUNS_DRAWN_MAX} runs are compared at once")
        found = [self._known(*_number_and_path(value), "run") for value in dict.fromkeys(wanted)]
        if sum(metrics_bytes(each.place.store) for each in found) > METRICS_BYTES_MAX:
            raise HTTPException(
                413, "their metrics are too large for a page; use `syn2co results --format html`"
            )
        runs = read_runs([each.place.store for each in found])
        with _DRAWING:
            page = render_comparison_page(runs, "Comparison")
        return HTMLResponse(self._with_navigation(page))

    def search(self, request: Request) -> Response:
        """A search's leaderboard from its records as they are now, with links to its trials."""
        seen = self._seen(request, "search")
        store = seen.place.store
        trials = {each.place.name: each for each in self.storages.below(seen)}
        context: dict[str, Any] = {"entries": [], "metric": "", "fault": "", "counts": {}}
        try:
            search = build_spec(yaml.safe_load(read_bytes(store, SPEC_FILE)))
            if not isinstance(search, SearchSpec):
                raise StorageError(store.uri, f"kind {search.kind}", "search")
            records = Records(store).load()
            statuses = [record.status for record in records.values()]
            context |= {
                "entries": ranking(search, records.values()),
                "metric": search.metric,
                "counts": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
            }
        except (Syn2coError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            context["fault"] = f"its records cannot be read: {error}"
        status = self._search_status(seen)
        page = self._rendered(
            "search.html.j2",
            seen=seen,
            status=status,
            trials=trials,
            whole=any(file.path == SEARCH_PAGE for file in seen.place.files),
            **context,
        )
        running = status not in ("finished", "interrupted")
        return HTMLResponse(page, headers={"Refresh": str(REFRESH_S)} if running else {})

    def search_page(self, request: Request) -> Response:
        """The page that a search has left: with its curves, and the job of each point."""
        seen = self._seen(request, "search")
        data = bounded_bytes(seen.place.store, "", SEARCH_PAGE)
        if data is None:
            raise HTTPException(404, "this search has left no page yet")
        page = self._with_navigation(data.decode(errors="replace"))
        return HTMLResponse(page, headers={"content-security-policy": STORED_PAGE_POLICY})

    def data_set(self, request: Request) -> Response:
        """A generated data set: its card, its counts, its contact sheet."""
        seen = self._seen(request, "data set")
        files = {file.path for file in seen.place.files}
        card = bounded_bytes(seen.place.store, "", CARD_FILE) if CARD_FILE in files else None
        sheet = bounded_bytes(seen.place.store, REPORT_FOLDER, SHEET_FILE) is not None
        page = self._rendered(
            "data_set.html.j2",
            seen=seen,
            known=self._data_set(seen),
            card=card.decode(errors="replace") if card else "",
            sheet=f"{REPORT_FOLDER}/{SHEET_FILE}" if sheet else "",
        )
        return HTMLResponse(page)

    def picture(self, request: Request) -> Response:
        """One of the pictures that runs and data sets have: `?name=`."""
        name = request.query_params.get("name", "")
        if name not in PICTURES:
            raise HTTPException(404, "no such picture")
        kind = "data set" if "/" in name else "run"
        seen = self._seen(request, kind)
        folder, _, file = name.rpartition("/")
        data = bounded_bytes(seen.place.store, folder, file)
        if data is None or not data.startswith(_PNG_SIGNATURE):
            raise HTTPException(404, "no such picture")
        return Response(data, media_type="image/png")

    def fault(self, request: Request, error: Exception) -> Response:
        """What could not be shown, in words."""
        status = error.status_code if isinstance(error, HTTPException) else 502
        words = error.detail if isinstance(error, HTTPException) else str(error)
        return HTMLResponse(self._rendered("fault.html.j2", status=status, words=words), status)

    def _seen(self, request: Request, kind: str) -> Seen:
        return self._known(request.path_params["number"], request.path_params["path"], kind)

    def _known(self, number: int, path: str, kind: str) -> Seen:
        place = self.storages.place(number, path, kind)
        if place is None:
            raise HTTPException(404, f"no {kind} of that name below the storages that are shown")
        return Seen(number, place)

    def _summary(self, seen: Seen) -> Summary:
        """A run's line; one that is finished stays as it is, any other may go on."""
        key = ("summary", seen.place.store.uri, seen.place.modified_ns)
        known = self.cache.get(key, FINISHED_FOR_S, lambda: summary(seen))
        if known.status == "finished":
            return known
        return self.cache.get((*key, "unfinished"), SUMMARY_FOR_S, lambda: summary(seen))

    def _sparklines(self, known: Summary) -> tuple[Markup, Markup, str]:
        """Loss, k-NN, and the newest loss in words."""

        def make() -> tuple[Markup, Markup, str]:
            try:
                curves = live_curves(known.seen.place.store)
            except (StorageError, ValueError, TypeError):
                curves = LiveCurves([], [])
            newest = f"{curves.loss[-1][1]:.4g} at step {curves.loss[-1][0]:,.0f}" if curves.loss else ""
            return sparkline(curves.loss, "loss"), sparkline(curves.knn, "k-NN"), newest

        return self.cache.get(("live", known.seen.place.store.uri), SUMMARY_FOR_S, make)

    def _report(self, seen: Seen) -> tuple[str, bool]:
        """A run's page, and whether it is the one that lies in its folder."""
        store = seen.place.store
        if metrics_bytes(store) > METRICS_BYTES_MAX:
            stored = bounded_bytes(store, "", REPORT_FILE)
            if stored is None:
                raise HTTPException(413, "its metrics are too large for a page, and it has left no report")
            return self._with_navigation(stored.decode(errors="replace")), True
        files = load_run_files(store)
        if files.spec.get("kind") in KINDS_WITHOUT_STEPS:
            stored = bounded_bytes(store, "", REPORT_FILE)
            if stored is not None:
                return self._with_navigation(stored.decode(errors="replace")), True
        with _DRAWING:
            page = render_page(files, str(files.spec.get("name") or seen.place.name))
        return self._with_navigation(page), False

    def _search_status(self, seen: Seen) -> str:
        results = self._json(seen, RESULTS_FILE)
        if results:
            return str(results.get("status", "unknown"))
        return "under way" if time.time() - seen.place.modified_ns / 1e9 < UNDER_WAY_S else "silent"

    def _data_set(self, seen: Seen) -> dict[str, Any]:
        """Name, images asked for, shards there, and what its manifest counts once it is whole."""
        about, counts = self._json(seen, DATASET_FILE), self._json(seen, MANIFEST_FILE)
        job = about.get("job")
        return {
            "name": str(about.get("name") or seen.place.name),
            "images": job.get("images") if isinstance(job, dict) else None,
            "shards": sum(file.path.startswith("shard-") for file in seen.place.files),
            "whole": bool(counts),
            "rejected": counts.get("rejected") if isinstance(counts.get("rejected"), dict) else {},
            "labels": counts.get("images_per_label")
            if isinstance(counts.get("images_per_label"), dict)
            else {},
            "quality": counts.get("quality") if isinstance(counts.get("quality"), dict) else {},
        }

    def _json(self, seen: Seen, name: str) -> dict[str, Any]:
        """A JSON file of a place; empty where it is not there, or is none."""
        if not any(file.path == name for file in seen.place.files):
            return {}

        def make() -> dict[str, Any]:
            try:
                values = json.loads(bounded_bytes(seen.place.store, "", name) or b"{}")
            except (ValueError, StorageError):
                return {}
            return values if isinstance(values, dict) else {}

        return self.cache.get(("json", seen.place.store.uri, name), SUMMARY_FOR_S, make)

    def _rendered(self, name: str, **values: Any) -> str:
        return self._pages.get_template(name).render(**values)

    def _with_navigation(self, page: str) -> str:
        """A page of the report room with the way back on top."""
        return page.replace("<main>", f"<main>{self._text('navigation.html.j2')}", 1)

    def _text(self, name: str) -> str:
        assert self._pages.loader is not None
        return self._pages.loader.get_source(self._pages, name)[0]


def link(kind: str, seen: Seen, name: str = "") -> str:
    """Address of a place's page; every path is quoted."""
    query = f"?name={quote(name, safe='')}" if name else ""
    return f"/{kind}/{seen.number}/{quote(seen.place.path)}{query}"


def _is_trial(place: Place) -> bool:
    return "/trials/" in f"/{place.path}"


def _number_and_path(value: str) -> tuple[int, str]:
    number, _, path = value.partition("/")
    return (int(number) if number.isascii() and number.isdigit() else -1), path


Page = Callable[[Request], Response]


def pages_of(views: Views) -> Mapping[str, Page]:
    """Address -> page."""
    return {
        "/": views.home,
        "/compare": views.compare,
        "/run/{number:int}/{path:path}": views.run,
        "/search/{number:int}/{path:path}": views.search,
        "/search-page/{number:int}/{path:path}": views.search_page,
        "/data/{number:int}/{path:path}": views.data_set,
        "/picture/{number:int}/{path:path}": views.picture,
    }
