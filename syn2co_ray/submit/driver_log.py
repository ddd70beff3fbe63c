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
            _log.error("%s", error, exc_info=None if isinstance(error, Syn2coError) else error)
            raise
