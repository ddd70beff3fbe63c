"""Which figures of one model may stand in one row: those of the same images and the same settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .measured import Figure, Measurement
from .protocols import SECTIONS_WITH_IMAGES

NO_LABELS = ""
"""For a line that no figure of labelled images may join."""


@dataclass
class Line:
    """Figures of one model that may stand side by side.

    Attributes:
        labelled: which labelled images they are of; None while there are none.
        conditions: section -> its settings.
        first_of: section -> the run that was the first to give a figure.
        section_of: protocol -> its section.
        values: (features, protocol) -> seed -> figure.
        runs: features -> runs that gave a figure of them.
    """

    labelled: str | None = None
    conditions: dict[str, str] = field(default_factory=dict)
    first_of: dict[str, Measurement] = field(default_factory=dict)
    section_of: dict[str, str] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    runs: dict[str, list[Measurement]] = field(default_factory=dict)

    def takes(self, section: str, condition: str, labelled: str) -> bool:
        """Whether a figure may stand beside the others."""
        if section not in SECTIONS_WITH_IMAGES and self.labelled not in (None, labelled):
            return False
        return self.conditions.get(section, condition) == condition

    def add(self, found: Figure, run: Measurement, labelled: str) -> bool:
        """Take a figure; False where this seed has one already."""
        if found.section not in SECTIONS_WITH_IMAGES:
            self.labelled = labelled
        self.conditions[found.section] = run.condition(found.section)
        self.first_of.setdefault(found.section, run)
        self.section_of[found.protocol] = found.section
        by_seed = self.values.setdefault((found.features, found.protocol), {})
        if run.weights.seed in by_seed:
            return False
        by_seed[run.weights.seed] = found.value
        runs = self.runs.setdefault(found.features, [])
        if run not in runs:
            runs.append(run)
        return True


def join(group: Sequence[Measurement]) -> tuple[list[Line], dict[str, str]]:
    """Lines of one model, and URI -> reason for runs that add nothing to them.

    The first line has the training's own images and settings, and the first set of each section that has
    images of its own. Which line a figure is in does not depend on its seed.
    """
    ordered = sorted(group, key=lambda run: not run.is_training)
    # A training that does not say what it was measured on has the same spec as those that do.
    unsaid = next((run.labelled for run in ordered if run.is_training and run.labelled), "not recorded")
    lines, repeats = [Line()], {}
    for run in ordered:
        labelled = unsaid if run.labelled is None else run.labelled
        gave = [_line_for(lines, found, run, labelled).add(found, run, labelled) for found in run.figures()]
        if not any(gave):
            repeats[run.run.uri] = _repeat(run, lines)
    return lines, repeats


def _line_for(lines: list[Line], found: Figure, run: Measurement, labelled: str) -> Line:
    """A line with figures of these conditions, else one that may take them, else a new one."""
    section, has_images = found.section, found.section in SECTIONS_WITH_IMAGES
    possible = [line for line in lines if line.takes(section, run.condition(section), labelled)]
    equal = [line for line in possible if section in line.conditions]
    if has_images:
        # Other sets of images than the first have lines of their own.
        possible = [line for line in possible if line is lines[0]]
    if not equal and not possible:
        lines.append(Line(NO_LABELS if has_images else labelled))
    return next(iter([*equal, *possible]), lines[-1])


def _repeat(run: Measurement, lines: Sequence[Line]) -> str:
    seed = run.weights.seed
    before = (other for line in lines for runs in line.runs.values() for other in runs)
    uri = next((other.run.uri for other in before if other.weights.seed == seed), "another run")
    return f"repeats seed {seed} of {uri}, which is in the table"
