"""What the command's modules share: words and options that return, and how errors become exit codes."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from .spec.errors import RunInterrupted, Syn2coError

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace those of the file."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the logs of all processes.")]
EXIT_CODES = (
    "Exit codes: 0 done, 2 bad spec, 3 bad data or storage, 4 failed run, 5 cannot be scheduled "
    "or no answer from the cluster, 130 stopped."
)


READER_GONE_EXIT_CODE = 141
"""As a shell shows a command that SIGPIPE ended."""


def guarded(call: Callable[[], Any], debug: bool) -> Any:
    """Run a command's work; our own errors become one message and an exit code."""
    try:
        found = call()
        sys.stdout.flush()
        return found
    except Syn2coError as error:
        if debug:
            raise
        Console(stderr=True).print(
            f"error: {error}", highlight=False, markup=False, soft_wrap=True, style="red"
        )
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        words = "stopped; what is whole stays: run the same command to go on"
        Console(stderr=True).print(words, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(RunInterrupted.exit_code) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise typer.Exit(READER_GONE_EXIT_CODE) from None
        if debug:
            raise
        words = f"error: {type(error).__name__}: {str(error).strip() or 'no message'} (--debug shows where)"
        Console(stderr=True).print(words, highlight=False, markup=False, soft_wrap=True, style="red")
        raise typer.Exit(Syn2coError.exit_code) from None


def _nobody_reads() -> bool:
    """Whether it is stdout's reader that went (`| head`); what is left for it is then thrown away."""
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        is_gone = any(events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll(0))
    except (AttributeError, OSError):  # no poll on this system; no file behind stdout
        return False
    if is_gone:
        # Python flushes once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_gone
