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

    A folder of runs, or a search's, stands for all runs below it. Published figures stand beside runs of the
    same recipe on ImageNet-1k. Runs that are not finished or cannot be read are named below the table.

    Example: syn2co results s3://bucket/runs --format latex --into table.tex
    """

    def work() -> None:
        from .report.run_folders import load_runs
        from .spec.source import ObjectStoreSpec

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


def _title(runs: list[str]) -> str:
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in runs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def add_commands(app: typer.Typer) -> None:
    """Give the command its words about results."""
    app.command(epilog="Exit codes: 0 done, 3 no run there or no way to it.")(results)
