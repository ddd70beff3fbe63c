"""The `syn2co` command. Thin: it parses words, calls a room, prints, and sets the exit code.

Heavy imports (torch, ray) happen inside the commands that need them, so `--help`, `validate` and
`schema` answer at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .cli_cluster import add_commands as add_cluster_commands
from .cli_embeddings import add_commands as add_embeddings_commands
from .cli_results import add_commands as add_results_commands
from .cli_serve import add_commands as add_serve_commands
from .cli_shared import EXIT_CODES, Debug, JobFile, Overrides, guarded
from .spec.errors import Fault, SpecError
from .spec.generate import GenerateSpec
from .spec.identity import json_schema, resolved_yaml, run_name
from .spec.job import TrainingSpec, steps_of
from .spec.load import load_job, load_jobs
from .spec.points import number_of_points
from .spec.search import SearchSpec

app = typer.Typer(
    help="Self-supervised training of vision models on Ray, with synthesized hard negatives.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

search_app = typer.Typer(help="What came out of a search (`kind: search`).", no_args_is_help=True)
app.add_typer(search_app, name="search")

SearchFile = Annotated[str, typer.Argument(metavar="SEARCH.yaml", help="The search that was run.")]


@app.command(epilog=EXIT_CODES)
def run(
    words: Annotated[list[str], typer.Argument(metavar="JOB.yaml... [KEY.PATH=VALUE]...")],
    debug: Debug = False,
) -> None:
    """Run a job here, or on the Ray cluster that RAY_ADDRESS names.

    Trains, evaluates and writes a report into the run's folder; or generates a data set; or embeds images;
    or the steps of a pipeline, such as all of these; or the trials of a search. The same command again
    resumes what was stopped and skips what is finished. Ctrl-C publishes a checkpoint before it stops.
    Several job files run one after the other, those that generate images first, and end with one table
    of all trainings; values after them replace those of every file.

    Example: syn2co run jobs/digits_synby.yaml train.epochs=5 train.workers=1
    """

    def work() -> None:
        files = [word for word in words if "=" not in word]
        overrides = [word for word in words if "=" in word]
        if not files:
            raise SpecError([Fault("JOB.yaml", "no job file", "one or more", "see the examples in jobs/")])
        specs = load_jobs(files, overrides)
        from .submit.run import run_jobs

        # Generated images first: trainings of the same command may want them.
        run_jobs(sorted(specs, key=lambda spec: spec.kind != "generate"), Console(), debug=debug)

    guarded(work, debug)


@app.command(epilog=EXIT_CODES)
def plan(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Show what a job would do, and refuse what cannot be scheduled; trains nothing.

    Prints the resolved spec, resources asked against resources there, windows, steps and bytes.
    """

    def work() -> None:
        spec = load_job(job, overrides or ())
        from .submit.plan import plan_lines
        from .submit.search import search_plan_lines

        if isinstance(spec, SearchSpec):
            lines = search_plan_lines(spec, debug=debug)
        else:
            lines = plan_lines(steps_of(spec), debug=debug)
        for line in lines:
            print(line)

    guarded(work, debug)


@app.command(epilog=EXIT_CODES)
def validate(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Check a job file and list all its faults at once; starts nothing."""

    def work() -> None:
        spec = load_job(job, overrides or ())
        if isinstance(spec, SearchSpec):
            print(f"{job}: valid; its search is {run_name(spec)}, {number_of_points(spec)} points")
            return
        steps = steps_of(spec)
        names = [
            f"data set is {step.name}" if isinstance(step, GenerateSpec) else f"run is {run_name(step)}"
            for step in steps
        ]
        print(f"{job}: valid; its {', its '.join(names)}")

    guarded(work, debug)


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
        if isinstance(spec, SearchSpec):
            from .submit.search_results import rewritten

            print(f"report: {rewritten(spec)}")
            return
        steps = steps_of(spec)
        trainings = [step for step in steps if isinstance(step, TrainingSpec)]
        if not trainings:
            raise SpecError([Fault("kind", spec.kind, "a job that trains", "its card is in its folder")], job)
        from .report.page import write_report
        from .train.run_folder import existing_run

        for training in trainings:
            print(f"report: {write_report(existing_run(training).store)}")

    guarded(work, debug)


@app.command(epilog=EXIT_CODES)
def generate(
    job: JobFile,
    only: Annotated[str, typer.Option("--only", metavar="KEY", help="Key of the image.")],
    overrides: Overrides = None,
    into: Annotated[str, typer.Option("--into", help="File for the image.")] = "",
    debug: Debug = False,
) -> None:
    """Make one image of a generated data set again, and show where it comes from.

    The whole data set is made by `syn2co run JOB.yaml`.

    Example: syn2co generate digits.yaml --only 5c1f0e1b2a3d-000000017 --into 17.png
    """

    def work() -> None:
        spec = load_job(job, overrides or ())
        if not isinstance(spec, GenerateSpec):
            raise SpecError([Fault("kind", spec.kind, "generate", "give a job that generates images")], job)
        from .report.output_file import check_into
        from .submit.one_image import one_image

        target = Path(into or f"{only}.{spec.encoding.format}")
        check_into(str(target))
        image, known = one_image(spec, only)
        target.write_bytes(image)
        for name, value in known.items():
            if value is not None:
                print(f"{name}: {value}")
        print(f"image: {target}")

    guarded(work, debug)


@app.command(epilog=EXIT_CODES)
def ingest(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Parquet, WebDataset or folder: any URI.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="Empty prefix that gets the shards.")],
    shorter_side: Annotated[
        int, typer.Option("--shorter-side", help="Pixels; larger images are made smaller. 0: none is.")
    ] = 0,
    quality: Annotated[int, typer.Option("--quality", help="JPEG quality of images made smaller.")] = 90,
    rows_per_shard: Annotated[
        int, typer.Option("--rows-per-shard", help="Images in a file, and shuffled together.")
    ] = 4096,
    rows_per_group: Annotated[int, typer.Option("--rows-per-group", help="Images in a row group.")] = 256,
    format_of_source: Annotated[
        str | None, typer.Option("--format-of-source", help="parquet, webdataset or folder; found by itself.")
    ] = None,
    origin: Annotated[str, typer.Option("--origin", help="real or generated.")] = "real",
    image_column: Annotated[str | None, typer.Option("--image-column", help="Found by itself.")] = None,
    label_column: Annotated[str | None, typer.Option("--label-column", help="label or cls.")] = None,
    key_column: Annotated[
        str | None, typer.Option("--key-column", help="key, else file name and row number.")
    ] = None,
    image_pixels_max: Annotated[
        int, typer.Option("--image-pixels-max", help="Larger images are unreadable.")
    ] = 100_000_000,
    quarantine_share_max: Annotated[
        float, typer.Option("--quarantine-share-max", help="Part of the images that may be unreadable.")
    ] = 0.01,
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", help="S3-compatible store; else AWS_ENDPOINT_URL.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="Else AWS_DEFAULT_REGION.")] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Read a public SOURCE without credentials.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Copy any source to Parquet shards, shuffled, its large images made smaller once for all epochs.

    Runs here, or on the Ray cluster that RAY_ADDRESS names, a task a shard. Keys and labels stay; images
    that are small enough keep their bytes; those that cannot be decoded are left out and listed in
    INTO/_quarantine.jsonl. INTO/manifest.json counts what is there. The same command again makes only what
    is missing, so it resumes one that was stopped. Without --shorter-side images are only packed.

    Example: syn2co ingest s3://raw/train s3://bucket/train-256 --shorter-side 256
    """

    def work() -> None:
        from .spec.ingest import ingest_spec

        columns = {"image_column": image_column, "label_column": label_column, "key_column": key_column}
        spec = ingest_spec(
            {
                "source": {"uri": source, "format": format_of_source, "origin": origin, **columns},
                "into": into,
                "shorter_side": shorter_side or None,
                "quality": quality,
                "rows_per_shard": rows_per_shard,
                "rows_per_group": rows_per_group,
                "image_pixels_max": image_pixels_max,
                "quarantine_share_max": quarantine_share_max,
                "object_store": {"endpoint_url": endpoint_url, "region": region, "anonymous": anonymous},
            }
        )
        from .submit.ingest import run_ingest

        run_ingest(spec, Console(), debug=debug)

    guarded(work, debug)


@app.command(epilog="Exit codes: 0 equal, 1 different, 3 no data set there.")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Prefix of a generated data set.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Prefix of another one.")],
    debug: Debug = False,
) -> None:
    """Compare two generated data sets, image by image.

    Example: syn2co diff s3://bucket/digits-a s3://bucket/digits-b
    """

    def work() -> bool:
        from .generate.difference import compare
        from .spec.source import ObjectStoreSpec

        found = compare(first, second, ObjectStoreSpec())
        for line in found.lines():
            print(line)
        return found.any

    if guarded(work, debug):
        raise typer.Exit(1)


@app.command(name="verify-resume", epilog=EXIT_CODES)
def verify_resume(
    job: JobFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option("--steps", min=10, help="Length of the two runs.")] = 50,
    debug: Debug = False,
) -> None:
    """Prove on your cluster that a run survives the death of a worker unchanged.

    Runs the job, cut to a few steps, twice: once undisturbed, once with a worker killed at a random step.
    Then compares the images of every step, the loss curve and the final weights.

    Example: syn2co verify-resume jobs/digits_synby.yaml --steps 100
    """

    def work() -> None:
        training = load_job(job, overrides or ())
        if not isinstance(training, TrainingSpec):
            raise SpecError([Fault("kind", training.kind, "pretrain or train_generator", "another job")], job)
        from .submit.verify_resume import verify_resume as verified

        for line in verified(training, steps, Console(), debug=debug):
            print(line)

    guarded(work, debug)


@search_app.command(epilog=EXIT_CODES)
def best(
    search: SearchFile,
    overrides: Overrides = None,
    into: Annotated[str, typer.Option("--into", help="File for the job; printed when left out.")] = "",
    debug: Debug = False,
) -> None:
    """Write the best point of a search as an ordinary job file.

    `syn2co run` of it shows the run that the search has; with another `storage` it trains again. Of a
    population the job has the values that its best trial ended with; the file says which it had before.

    Example: syn2co search best jobs/search/digits_negatives.yaml --into best.yaml
    """

    def work() -> None:
        from .report.output_file import check_into
        from .search.leaderboard import job_text
        from .submit.search_results import best_job

        if into:
            check_into(into)
        entry = best_job(_search(search, overrides))
        if not into:
            print(job_text(entry), end="")
            return
        Path(into).write_text(job_text(entry), encoding="utf-8")
        print(f"point {entry.point_number}, {entry.value:.4g}: {entry.point}")
        print(f"job: {into}")

    guarded(work, debug)


@search_app.command(name="compare", epilog=EXIT_CODES)
def compare_points(
    search: SearchFile,
    a: Annotated[int, typer.Argument(metavar="A", help="Number of a point, as in the leaderboard.")],
    b: Annotated[int, typer.Argument(metavar="B", help="Another one.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Is B better than A, or is it noise? A paired bootstrap over their seeds.

    Example: syn2co search compare jobs/search/digits_negatives.yaml 0 3
    """

    def work() -> None:
        from .submit.search_results import compare_lines

        for line in compare_lines(_search(search, overrides), a, b):
            print(line)

    guarded(work, debug)


def _search(file: str, overrides: list[str] | None) -> SearchSpec:
    spec = load_job(file, overrides or ())
    if not isinstance(spec, SearchSpec):
        raise SpecError([Fault("kind", spec.kind, "search", "give a file of kind search")], file)
    return spec


@app.command()
def resolve(job: JobFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the job with every default filled in; the output is a job file itself."""

    def work() -> None:
        print(resolved_yaml(load_job(job, overrides or ())), end="")

    guarded(work, debug)


add_cluster_commands(app)
add_results_commands(app)
add_serve_commands(app)
add_embeddings_commands(app)

if __name__ == "__main__":
    app()
