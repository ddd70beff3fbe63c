"""The table of runs as text, Markdown, LaTeX and CSV (as HTML it is in `comparison_page`)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from .results_table import Measured, ResultsTable, TableRow
from .table import aligned

NONE = ""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "±": r"$\pm$",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~&])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def notes(table: ResultsTable) -> list[str]:
    """What a reader has to know of the figures: what they are, sources, and runs that are in no row."""
    lines = []
    if table.rows:
        lines.append(
            "Top-1 % unless named otherwise: mean ± sample standard deviation over n seeds. "
            "Hours: the mean of a run, the times of its recorded steps times what its workers held."
        )
    units = {row.hours.unit for row in table.rows if row.hours}
    if "CPU-hours" in units:
        lines.append(
            "CPU-hours where the workers held no GPU: logical CPUs of the workers, not of view actors."
        )
    for row in table.rows:
        if row.published:
            sources = "; ".join(row.published.sources)
            lines.append(f"Published, {row.framework} {row.backbone}, {row.epochs} epochs: {sources}.")
    return lines + [f"Not in the table: {left.uri}: {one_line(left.reason)}" for left in table.left_out]


def cells(table: ResultsTable) -> list[list[str]]:
    """Header and rows as text; a figure that was not measured is empty."""
    published = any(row.published for row in table.rows)
    has_knn = any(row.published and row.published.knn for row in table.rows)
    features = len({row.features for row in table.rows}) > 1
    header = ["run", "framework", "backbone", "data", "epochs", *(["features"] if features else []), "n"]
    header += [*table.protocols, *(["published linear"] if published else [])]
    header += [*(["published k-NN"] if has_knn else []), "hours a run", "commit", "data hash"]
    lines = [header]
    for row in table.rows:
        line = [row.name, row.framework, row.backbone, row.data, row.epochs]
        line += [*([row.features] if features else []), str(len(row.seeds))]
        line += [figure_cell(row.figures.get(protocol), len(row.seeds)) for protocol in table.protocols]
        line += [row.published.linear if row.published else NONE] if published else []
        line += [row.published.knn if row.published else NONE] if has_knn else []
        hours = f"{row.hours.hours:.3g} {row.hours.unit}" if row.hours else NONE
        lines.append([one_line(cell) for cell in [*line, hours, ", ".join(row.commits), row.data_hash]])
    return lines


def columns_of_words(table: ResultsTable) -> int:
    """How many columns of `cells`, from the left, hold words and not numbers."""
    return 6 if len({row.features for row in table.rows}) > 1 else 5


def figure_cell(figure: Measured | None, runs: int) -> str:
    """`72.31 ± 0.12`; the number of runs beside it where not all of them have it."""
    if figure is None:
        return NONE
    deviation = f" ± {figure.deviation:.2f}" if figure.deviation is not None else ""
    return f"{figure.mean:.2f}{deviation}{f' (n={figure.n})' if figure.n != runs else ''}"


def as_text(table: ResultsTable) -> str:
    """Columns aligned, for a terminal."""
    lines = aligned(cells(table), columns_of_words(table)) if table.rows else ["no finished run with results"]
    return "\n".join([*lines, "", *notes(table)]) + "\n"


def as_markdown(table: ResultsTable) -> str:
    """A table of GitHub's kind, its notes as a list."""
    lines = [[markdown(cell) for cell in line] for line in cells(table)]
    told = [f"| {' | '.join(line)} |" for line in lines]
    told.insert(1, "|" + "---|" * len(lines[0]))
    listed = [f"- {markdown(note)}" for note in notes(table)]
    return "\n".join([*(told if table.rows else []), "", *listed]) + "\n"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKDOWN.sub(lambda found: "\\" + found[1], one_line(text))


def as_latex(table: ResultsTable) -> str:
    r"""A `tabular` for the package booktabs, its notes as comments; every name is escaped."""
    header, *rows = [[latex(cell) for cell in line] for line in cells(table)]
    words = columns_of_words(table)
    columns = "l" * words + "r" * (len(header) - words)
    lines = ["% needs \\usepackage{booktabs}"]
    lines += [f"% {note}" for note in notes(table)]
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_line(header), "\\midrule"]
    lines += [*map(_latex_line, rows), "\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def _latex_line(line: Sequence[str]) -> str:
    return " & ".join(line) + r" \\"


def as_csv(table: ResultsTable) -> str:
    """One line a row and one a run that is left out (`status`), numbers as they are, for other programs.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    buffer = io.StringIO()
    figures = [f"{name} {part}" for name in table.protocols for part in ("mean", "deviation", "n")]
    header = ["run", "framework", "backbone", "data", "epochs", "features", "seeds", *figures]
    header += ["published linear", "published k-NN", "published source", "hours", "hours of"]
    header += ["commits", "data hash", "runs", "status"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        writer.writerow([_no_formula(cell) for cell in _csv_cells(row, table.protocols)])
    empty = [NONE] * (len(header) - 2)
    for left in table.left_out:
        writer.writerow([*empty, _no_formula(left.uri), _no_formula(f"left out: {left.reason}")])
    return buffer.getvalue()


def _csv_cells(row: TableRow, protocols: Sequence[str]) -> Iterator[str]:
    yield from (row.name, row.framework, row.backbone, row.data, row.epochs, row.features)
    yield " ".join(map(str, row.seeds))
    for protocol in protocols:
        figure = row.figures.get(protocol)
        yield repr(figure.mean) if figure else NONE
        yield repr(figure.deviation) if figure and figure.deviation is not None else NONE
        yield str(figure.n) if figure else NONE
    yield from (row.published.linear, row.published.knn) if row.published else (NONE, NONE)
    yield "; ".join(row.published.sources) if row.published else NONE
    yield from (repr(row.hours.hours), row.hours.unit) if row.hours else (NONE, NONE)
    yield from (" ".join(row.commits), row.data_hash, " ".join(row.runs), "finished")


def _no_formula(text: str) -> str:
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", text)
    return f"'{text}" if text.startswith(_FORMULA) and not is_number else text


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which could begin a line of its own."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
