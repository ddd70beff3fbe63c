"""Commands that show what is there: a table of runs, and pages of a storage in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .cli_shared import Debug, guarded

Endpoint = Annotated[
    str | None, typer.Option("--endpoint-url", help="S3-compatible store; else AWS_ENDPOINT_URL.")
]
Region = Annotated[str | None, typer.Option("--region", help="Else AWS_DEFAULT_REGION.")]
TableFormat = Literal["table", "html", "markdown", "latex", "csv"]


def results(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some; any URI.")
    ],
    format_of_table: Annotated[
        TableFormat, typer.Option("--format", help="html: a page with curves, views and what differs.")
    ] = "table",
    into: Annotated[str, typer.Option("--into", help="File for it; printed when left out.")] = "",
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also rows of random encoders, raw pixels and the like.")
    ] = False,
    endpoint_url: Endpoint = None,
    region: Region = None,
    debug: Debug = False,
) -> None:
    """One table of many runs: a row for those that differ only in their seed, mean ± deviation over seeds.

    A folder of runs, or a search's, stands for all runs below it. Evaluations stand in the row of the
    training whose weights they measured, published figures beside ours of the same recipe, protocol and
    images. Runs that are not finished or cannot be read are named below the table.

    Example: syn2co results s3://bucket/runs --format latex --into table.tex
    """

    def work() -> None:
        from .report.output_file import check_into
        from .report.run_folders import load_runs
        from .spec.source import ObjectStoreSpec

        if into:
            check_into(into)
        loaded = load_runs(runs, ObjectStoreSpec(endpoint_url=endpoint_url, region=region))
        if format_of_table == "html":
            # matplotlib takes seconds to import.
            from .report.comparison_page import render_comparison_page

            text = render_comparison_page(loaded, _title(runs), baselines)
        else:
            from .report import results_formats
            from .report.results_table import results_table

            write = {
                "table": results_formats.as_text,
                "markdown": results_formats.as_markdown,
                "latex": results_formats.as_latex,
                "csv": results_formats.as_csv,
            }[format_of_table]
            text = write(results_table(loaded, baselines))
        if not into:
            print(text, end="")
            return
        Path(into).write_text(text, encoding="utf-8")
        print(f"results: {into}")

    guarded(work, debug)


def ui(
    storages: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STORAGE]...", help="Folders of runs, any URI; ./runs if none."),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8501,
    host: Annotated[
        str, typer.Option("--host", help="Another than loopback's needs a token in SYN2CO_UI_TOKEN.")
    ] = "127.0.0.1",
    endpoint_url: Endpoint = None,
    region: Region = None,
    debug: Debug = False,
) -> None:
    """Show runs, searches and generated data sets of some storages in a browser, read only.

    The list of runs with status and newest figures, curves of those under way, each run's report,
    leaderboards, contact sheets, and the cluster that RAY_ADDRESS names. Needs `pip install
    'syn2co_ray[ui]'`. Only this machine can reach it; from another one use `ssh -L 8501:127.0.0.1:8501`.

    Example: syn2co ui runs s3://bucket/runs
    """

    def work() -> None:
        from .spec.source import ObjectStoreSpec
        from .submit.ui.server import serve

        options = ObjectStoreSpec(endpoint_url=endpoint_url, region=region)
        serve(storages or ["runs"], host, port, options, lambda line: print(line, flush=True))

    guarded(work, debug)


def _title(runs: list[str]) -> str:
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in runs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def add_commands(app: typer.Typer) -> None:
    """Give the command its words about results."""
    app.command(epilog="Exit codes: 0 done, 2 no place for the file, 3 no run there.")(results)
    app.command(epilog="Exit codes: 0 ended, 2 an address that is refused, 3 no such storage.")(ui)
