"""Commands about clusters: one on this machine, and jobs that are sent to any."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from .cli_shared import EXIT_CODES, Debug, JobFile, Overrides, guarded
from .spec.errors import ClusterError, RunInterrupted
from .spec.load import load_job

cluster_app = typer.Typer(
    help="Several Ray nodes on this machine, to try out what a cluster does.", no_args_is_help=True
)
JobName = Annotated[str, typer.Argument(metavar="JOB_ID", help="As `submit` printed it.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Dashboard of the cluster's head; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else "
        "http://127.0.0.1:8265.",
    ),
]
OF_JOB = "Exit codes: those of the job (see `syn2co run --help`); 5 no answer from the cluster."
STOP_GRACE_S = 600
NO_CLUSTER = "no local cluster is up; `syn2co cluster up` starts one"


@cluster_app.command(epilog="Exit codes: 0 up, 5 cannot be started.")
def up(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=64, help="Ray nodes, the head included.")] = 3,
    cpus_each: Annotated[int, typer.Option("--cpus-each", min=1, help="Logical CPUs of a node.")] = 2,
    gpus_each: Annotated[
        int, typer.Option("--gpus-each", min=0, help="GPUs of a node; each node gets its own.")
    ] = 0,
    debug: Debug = False,
) -> None:
    """Start a Ray cluster of several nodes on this machine, with a dashboard that takes jobs.

    The dashboard listens on loopback and, like Ray's other ports, asks for a token made for this cluster.
    Ports and temporary files are its own, so that it does not meet another Ray. It stays until
    `syn2co cluster down`.
    Nodes share the machine: more logical CPUs than there are do not make it faster.

    Example: syn2co cluster up --nodes 3, then the two printed `export` lines, then
    syn2co submit jobs/digits_synby.yaml --wait
    """

    def work() -> None:
        from .submit.local_cluster import start_cluster, use_lines

        for line in use_lines(start_cluster(nodes, cpus_each, gpus_each, print)):
            print(line)

    guarded(work, debug)


@cluster_app.command()
def down(debug: Debug = False) -> None:
    """End the local cluster: the processes that `cluster up` started, and no others.

    (`ray stop` would end every Ray on this machine.) Jobs on it are ended without a checkpoint: stop them
    first with `syn2co stop`.
    """

    def work() -> None:
        from .submit.local_cluster import end_cluster, recorded_cluster

        cluster = recorded_cluster()
        if cluster is None:
            print(NO_CLUSTER)
            return
        end_cluster(cluster)
        print(f"{len(cluster.nodes)} nodes ended")

    guarded(work, debug)


@cluster_app.command(epilog="Exit codes: 0 up, 5 not.")
def status(debug: Debug = False) -> None:
    """Show which nodes of the local cluster are alive, its address, and where its token is."""

    def work() -> None:
        from .submit.local_cluster import record_file, recorded_cluster, status_lines

        cluster = recorded_cluster()
        if cluster is None:
            raise ClusterError(str(record_file()), "no local cluster is up", "", "syn2co cluster up")
        for line in status_lines(cluster):
            print(line)

    guarded(work, debug)


def submit(
    job: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    working_tree: Annotated[
        bool, typer.Option("--working-tree", help="Send this package's code, as it is here.")
    ] = False,
    pip: Annotated[
        bool, typer.Option("--pip", help="Install this package's libraries there, in the versions of here.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job to its end, and exit as it does.")
    ] = False,
    stop_grace_s: Annotated[
        int,
        typer.Option("--stop-grace-s", min=10, help="Seconds a stopped job has to publish its checkpoint."),
    ] = STOP_GRACE_S,
    debug: Debug = False,
) -> None:
    """Send a job to a Ray cluster, where `syn2co run` runs it on the head.

    Before it is sent: the job file is checked here, then a small job asks every node for versions (Python,
    Ray, torch and this package must be the same as here, the libraries that the job needs the same on all
    nodes), for resources, and whether it sees the job's storage and sources. Credentials are not sent: nodes
    use their own.

    The token of a cluster is taken from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH. The same command again resumes
    what was stopped. Ctrl-C while following ends only the following.

    Example: syn2co submit job.yaml train.epochs=5 --address http://127.0.0.1:8265 --working-tree --wait
    """

    def work() -> int:
        spec = load_job(job, overrides or ())
        from .submit.dashboard import open_dashboard
        from .submit.send import Sending, submit

        dashboard = open_dashboard(address)
        asked = [("--working-tree", working_tree), ("--pip", pip), ("--wait", wait)]
        options = [option for option, chosen in asked if chosen]
        if stop_grace_s != STOP_GRACE_S:
            options += ["--stop-grace-s", str(stop_grace_s)]
        again = dashboard.command("submit", job, *(overrides or ()), *options)
        sending = Sending(spec, working_tree, pip, stop_grace_s, again)
        name = submit(dashboard, sending, print)
        print(f"submitted: {name}")
        print(f"follow:    {dashboard.command('logs', '-f', name)}")
        print(f"stop:      {dashboard.command('stop', name)}")
        print(f"resume:    {again}")
        return _followed(dashboard, name) if wait else 0

    raise typer.Exit(guarded(work, debug))


def _followed(dashboard: Any, name: str) -> int:
    """Print a job's log until it has ended; its exit code."""
    from .submit.jobs import code_of, ending_words, follow, log_of

    try:
        job = follow(dashboard, name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        follow_it, stop_it = dashboard.command("logs", "-f", name), dashboard.command("stop", name)
        print(f"\n{name} goes on; follow it again: {follow_it}; stop it: {stop_it}")
        return RunInterrupted.exit_code
    log = log_of(dashboard, name)
    print(ending_words(job, log))
    return code_of(job, log)


def job_status(job_id: JobName, address: Address = None, debug: Debug = False) -> None:
    """Show how a submitted job is: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    def work() -> int:
        from .submit.dashboard import open_dashboard
        from .submit.jobs import code_of, ending_words, find_job, log_of

        dashboard = open_dashboard(address)
        job = find_job(dashboard, job_id)
        print(job.line(time.time()))
        if not job.is_over:
            return 0
        log = log_of(dashboard, job_id)
        print(ending_words(job, log))
        return code_of(job, log)

    raise typer.Exit(guarded(work, debug))


def logs(
    job_id: JobName,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and exit as it does.")
    ] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Print what a submitted job has printed. Ctrl-C ends only the following, not the job."""

    def work() -> int:
        from .submit.dashboard import open_dashboard
        from .submit.jobs import find_job, log_of

        dashboard = open_dashboard(address)
        if following:
            return _followed(dashboard, job_id)
        find_job(dashboard, job_id)
        print(log_of(dashboard, job_id), end="")
        return 0

    raise typer.Exit(guarded(work, debug))


def stop(job_id: JobName, address: Address = None, debug: Debug = False) -> None:
    """Stop a submitted job: it publishes a checkpoint first; returns when it has ended.

    It has as long as `submit --stop-grace-s` said; then it is killed, and resumes from an earlier checkpoint.
    Ctrl-C ends only the waiting.
    """

    def work() -> int:
        from .submit.dashboard import open_dashboard
        from .submit.jobs import ask_to_stop, code_of, ending_words, find_job, log_of, wait_until_over

        dashboard = open_dashboard(address)
        find_job(dashboard, job_id)
        if ask_to_stop(dashboard, job_id):
            print(f"{job_id} was asked to stop; it publishes a checkpoint first")
        try:
            job = wait_until_over(dashboard, job_id)
        except KeyboardInterrupt:
            print(f"\n{job_id} still stops; see {dashboard.command('status', job_id)}")
            return RunInterrupted.exit_code
        log = log_of(dashboard, job_id)
        print(ending_words(job, log))
        return 0 if code_of(job, log) in (0, RunInterrupted.exit_code) else code_of(job, log)

    raise typer.Exit(guarded(work, debug))


def list_jobs(address: Address = None, debug: Debug = False) -> None:
    """List the jobs that were submitted to a cluster, the oldest first: id, status, age, run."""

    def work() -> None:
        from .submit import jobs
        from .submit.dashboard import open_dashboard

        found = jobs.list_jobs(open_dashboard(address))
        for job in found:
            print(job.line(time.time()))
        if not found:
            print("no jobs")

    guarded(work, debug)


def doctor(
    address: Annotated[
        str | None, typer.Option("--address", help="Dashboard of a cluster's head to look at.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="Place in a store to write to, read from and clean up.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Look at this machine, a store and a cluster; each fault comes with what to do about it.

    Versions, GPUs, NCCL and gloo, shared memory, host name, ports; with --storage a probe object that is
    written, listed, read and deleted, with its speed and the store's clock; with --address whether the head
    answers, takes the token and refuses without, its version, nodes, open ports and clock.

    Example: syn2co doctor --storage s3://my-bucket/runs --address http://127.0.0.1:8265
    """

    def work() -> int:
        from .submit.doctor import examine, exit_code

        findings = []
        for finding in examine(address, storage):
            print(finding.line, flush=True)
            findings.append(finding)
        return exit_code(findings)

    raise typer.Exit(guarded(work, debug))


def add_commands(app: typer.Typer) -> None:
    """Put these commands among those of the `syn2co` command."""
    app.add_typer(cluster_app, name="cluster")
    app.command(epilog=EXIT_CODES)(submit)
    app.command(name="status", epilog=OF_JOB)(job_status)
    app.command(epilog=OF_JOB)(logs)
    app.command(epilog="Exit codes: 0 stopped or done before, 4 killed or failed, 5 no answer.")(stop)
    app.command(epilog="Exit codes: 0 well, 3 a fault of the store, 5 of the machine or the cluster.")(doctor)
    app.command(name="list", epilog="Exit codes: 0 listed, 5 no answer.")(list_jobs)
