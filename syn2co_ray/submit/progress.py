"""Progress a person can follow: a live line in a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import time
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_LINE_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class LiveText:
    """Text that replaces itself in a terminal, between lines that stay; elsewhere only the latter."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(Text("starting ..."), console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()

    def log(self, text: str) -> None:
        """A line that stays, here and in the run's log."""
        _log.info(text)
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def replace(self, text: str) -> bool:
        """Show this text instead of the one before; False where there is no terminal."""
        if self._live:
            self._live.update(Text(text))
        return self._live is not None


class Progress(LiveText):
    """Shows what `WorkersRun.look` returns."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._evaluations_shown = 0
        self._warnings_shown = 0
        self._last_line_at = 0.0
        self._last_step = -1
        self._rate: float | None = None

    @property
    def step(self) -> int | None:
        """Steps done, as far as was shown."""
        return self._last_step if self._last_step >= 0 else None

    def begin_run(self) -> None:
        """What comes next is of another run."""
        self._evaluations_shown = self._warnings_shown = 0
        self._last_line_at, self._last_step, self._rate = 0.0, -1, None

    def show(self, seen: dict[str, Any]) -> None:
        """Update the live line, or print a plain line now and then."""
        for evaluation in seen["evaluations"][self._evaluations_shown :]:
            figures = ", ".join(f"{value:.1f} % (k={k})" for k, value in list(evaluation["knn"].items())[:2])
            self.log(f"epoch {evaluation['epoch']}: k-NN top-1 {figures}")
            self._evaluations_shown += 1
        for warning in seen["warnings"][self._warnings_shown :]:
            self.log(f"warning: {warning}")
            self._warnings_shown += 1
        progress = seen["progress"]
        if not progress or progress["step"] == self._last_step:
            return
        line = self.line(progress)
        if "live" in seen:
            line += f"  {seen['live']['images_made']:,} generated, {seen['live']['images_ready']:,} ready"
        due = time.monotonic() - self._last_line_at >= PLAIN_LINE_EVERY_S or self._last_step < 0
        if not self.replace(line) and due:
            self._last_line_at = time.monotonic()
            self._print(line)  # not into the log: metrics/ has every step
        self._last_step = progress["step"]

    def line(self, progress: dict[str, Any]) -> str:
        """Epoch, step, loss, images/s, data wait and time left."""
        rate = progress["images_per_s"]
        self._rate = rate if self._rate is None else 0.9 * self._rate + 0.1 * rate
        images_per_step = rate * progress["step_time_s"]
        left_s = (progress["total_steps"] - progress["step"]) * images_per_step / self._rate
        skipped = "  SKIPPED (not finite)" if progress["skipped"] else ""
        return (
            f"epoch {progress['epoch'] + 1}/{progress['epochs']}  "
            f"step {progress['step']}/{progress['total_steps']}  loss {progress['loss']:.4f}  "
            f"{self._rate:.0f} images/s  data wait {progress['data_wait_share']:.0%}  "
            f"ETA {duration(left_s)}{skipped}"
        )


def live_line(live: dict[str, Any]) -> str:
    """What a live source did, in one line."""
    late = f"{live['late_passes']} of {live['passes']} passes came before their new images"
    shared = f" ({live['images_shared']:,} more of other trials)" if live.get("images_shared") else ""
    return (
        f"live source: {live['images_made']:,} images generated{shared}, {late}, "
        f"longest wait {duration(live['longest_wait_s'])}"
    )


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
