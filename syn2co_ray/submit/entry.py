"""What every training worker runs: the place where evaluation is handed to training.

The stream is started before torch and timm are imported, and this module imports neither: Ray's
controller loads it too.
"""

from __future__ import annotations

import time
from typing import Any

from ..train.worker_stream import WorkerStream
from ..train.worker_task import WorkerTask


def pretrain_worker(task: WorkerTask) -> dict[str, Any]:
    """Train, evaluate on the way and at the end; `task.extra` is `EvaluationSets` or None."""
    task.board.mark.remote("workers started", time.time())
    stream = WorkerStream(task.board)

    from ..evaluate.protocols import Evaluation
    from ..train.worker import run_worker

    task.board.mark.remote("networks imported", time.time())
    if task.extra is None:
        return run_worker(task, stream, None, None)
    evaluation = Evaluation(task.job, task.extra.bank, task.extra.queries)

    def finish(loop: Any, outcome: Any, context: Any) -> Any:
        if outcome.status != "finished":
            return None
        return evaluation.after_training(loop.trainer.method, context)

    return run_worker(task, stream, evaluation.during_training, finish)
