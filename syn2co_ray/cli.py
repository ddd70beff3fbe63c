"""The `syn2co` command. Thin: it parses words, calls a room, prints, and sets the exit code.

Heavy imports (torch, ray) happen inside the commands that need them, so `--help`, `validate` and
`schema` answer at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from .spec.errors import Fault, SpecError, Syn2coError
from .spec.identity import json_schema, resolved_yaml, run_name
from .spec.load import load_job, load_jobs

app = typer.Typer(
    help="Self-supervised training of vision models on Ray, with synthesized hard negatives.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace those of the file."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the logs of all processes.")]
EXIT_CODES = (
    "Exit codes: 0 done, 2 bad spec, 3 bad data or storage, 4 failed run, 5 cannot be scheduled, 130 stopped."
)


def _guarded(call: Callable[[], Any], debug: bool) -> Any:
    """Run a command's work; our own errors become one message and an exit code."""
    try:
        return call()
    except Syn2coError as error:
        if debug:
            raise
        Console(stderr=True).print(
            f"error: {error}", highlight=False, markup=False, soft_wrap=True, style="red"
        )
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        if debug:
            raise
        words = f"error: {type(error).__name__}: {str(error).strip() or 'no message'} (--debug shows where)"
        Console(stderr=True).print(words, highlight=False, markup=False, soft_wrap=True, style="red")
        raise typer.Exit(Syn2coError.exit_code) from None


@app.command(epilog=EXIT_CODES)
def run(
    words: Annotated[list[str], typer.Argument(metavar="JOB.yaml... [KEY.PATH=VALUE]...")],
    debug: Debug = False,
) -> None:
    """Run a job here, or on the Ray cluster that RAY_ADDRESS names.

    Trains, evaluates and writes a report into the run's folder. The same command again resumes a
    stopped run from its newest checkpoint. Ctrl-C publishes a checkpoint before it stops.
    Several job files run one after the other and end with one table of them all; values after them
    replace those of every file.

    Example: syn2co run jobs/quickstart.yaml train.epochs=5 train.workers=1
    """

    def work() -> None:
        files = [word for word in words if "=" not in word]
        overrides = [word for word in words if "=" in word]
        if not files:
            raise SpecError([Fault("JOB.yaml", "no job file", "one or more", "see the examples in jobs/")])
        specs = load_jobs(files, overrides)
        from .submit.run import run_job, run_jobs

        if len(specs) == 1:
            run_job(specs[0], Console(), debug=debug)
        else:
            run_jobs(specs, Console(), debug=debug)

    _guarded(work, debug)


@app.command(epilog=EXIT_CODES)
def plan(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Show what a job would do, and refuse what cannot be scheduled; trains nothing.

    Prints the resolved spec, resources asked against resources there, windows, steps and bytes.
    """

    def work() -> None:
        spec = load_job(job, overrides or ())
        from .submit.plan import plan_lines

        for line in plan_lines(spec, debug=debug):
            print(line)

    _guarded(work, debug)


@app.command(epilog=EXIT_CODES)
def validate(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Check a job file and list all its faults at once; starts nothing."""

    def work() -> None:
        spec = load_job(job, overrides or ())
        print(f"{job}: valid; its run is {run_name(spec)}")

    _guarded(work, debug)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors that complete and check them.

    Example: syn2co schema > job.schema.json, then in a job file's first line
    `# yaml-language-server: $schema=job.schema.json`
    """
    print(json.dumps(json_schema(), indent=2))


@app.command(epilog=EXIT_CODES)
def report(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Write report.html of a job's run again (also while it runs, or after it was stopped)."""

    def work() -> None:
        spec = load_job(job, overrides or ())
        from .report.page import write_report
        from .train.run_folder import existing_run

        print(f"report: {write_report(existing_run(spec).store)}")

    _guarded(work, debug)


@app.command()
def resolve(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the job with every default filled in; the output is a job file itself."""

    def work() -> None:
        print(resolved_yaml(load_job(job, overrides or ())), end="")

    _guarded(work, debug)


if __name__ == "__main__":
    app()
