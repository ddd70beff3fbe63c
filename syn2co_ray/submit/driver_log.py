"""What a command's own process says of a run, kept in the run's folder with the error that ended it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..spec.errors import RunInterrupted, Syn2coError
from ..storage import RunLog, run_log

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def driver_log(run: str) -> Iterator[RunLog]:
    """Keep the block's records; they are published from `publish_into` on.

    Args:
        run: the run's name.
    """
    with run_log("driver", run) as log:
        try:
            yield log
        except RunInterrupted as stopped:
            _log.info("%s", stopped)
            raise
        except Exception as error:
            # Into the log alone: who started the command prints what it ends with.
            log.handle(_record_of(error))
            raise


def _record_of(error: Exception) -> logging.LogRecord:
    whole = None if isinstance(error, Syn2coError) else (type(error), error, error.__traceback__)
    return _log.makeRecord(_log.name, logging.ERROR, __file__, 0, "%s", (error,), whole)
