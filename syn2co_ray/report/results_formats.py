"""The table of runs as text, Markdown, LaTeX and CSV (as HTML it is in `comparison_page`)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from .protocols import family
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
            "Hours: the mean of a training, the times of its recorded steps times what its workers held."
        )
    units = {row.hours.unit for row in table.rows if row.hours}
    if "CPU-hours" in units:
        lines.append(
            "CPU-hours where the workers held no GPU: logical CPUs of the workers, not of view actors."
        )
    for row in table.rows:
        if row.published:
            lines.append(f"Published, {row.framework} {row.backbone}, {row.epochs} epochs: {_sources(row)}.")
    return lines + [
        f"Not in the table: {one_line(left.uri)}: {one_line(left.reason)}" for left in table.left_out
    ]


def cells(table: ResultsTable) -> list[list[str]]:
    """Header and rows as text; a figure that was not measured is empty, published ones stand beside ours."""
    words = _words(table)
    columns = list(_columns(table))
    header = [*words, "n", *(f"published {name}" if is_theirs else name for name, is_theirs in columns)]
    lines = [[*header, "hours a run", "commit", "data hash"]]
    for row in table.rows:
        line = [*(str(getattr(row, field)) for field in words.values()), str(len(row.seeds))]
        for name, is_theirs in columns:
            own = figure_cell(row.figures.get(name), len(row.seeds))
            line.append(_published(row, name) if is_theirs else own)
        hours = f"{row.hours.hours:.3g} {row.hours.unit}" if row.hours else NONE
        lines.append([one_line(cell) for cell in [*line, hours, ", ".join(row.commits), row.data_hash]])
    return lines


def columns_of_words(table: ResultsTable) -> int:
    """How many columns of `cells`, from the left, hold words and not numbers."""
    return len(_words(table))


def _words(table: ResultsTable) -> dict[str, str]:
    """Heading -> field of a row, for columns of words; what is alike in all rows has none."""
    told = {"run": "name", "framework": "framework", "backbone": "backbone", "data": "data"}
    told["epochs"] = "epochs"
    if len({row.features for row in table.rows}) > 1:
        told["features"] = "features"
    if len({row.measured_on for row in table.rows}) > 1 or any(row.has_evaluation for row in table.rows):
        told["measured on"] = "measured_on"
    return told


def _columns(table: ResultsTable) -> Iterator[tuple[str, bool]]:
    """Protocols in order (False), and after the last of a family its published figures (True)."""
    published = {name for row in table.rows for name in row.published}
    families = [family(protocol) for protocol in table.protocols]
    for number, protocol in enumerate(table.protocols):
        yield protocol, False
        if families[number] in published and families[number] not in families[number + 1 :]:
            yield families[number], True


def _sources(row: TableRow) -> str:
    return "; ".join(f"{each.protocol} {each.figure}: {each.source}" for each in row.published.values())


def _published(row: TableRow, name: str) -> str:
    return row.published[name].figure if name in row.published else NONE


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
    published = [name for name, is_theirs in _columns(table) if is_theirs]
    header = ["run", "framework", "backbone", "data", "epochs", "features", "measured on", "seeds", *figures]
    header += [*(f"published {name}" for name in published), "published source", "hours", "hours of"]
    header += ["commits", "data hash", "runs", "status"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        writer.writerow([_no_formula(cell) for cell in _csv_cells(row, table.protocols, published)])
    empty = [NONE] * (len(header) - 2)
    for left in table.left_out:
        writer.writerow([*empty, _no_formula(left.uri), _no_formula(f"left out: {left.reason}")])
    return buffer.getvalue()


def _csv_cells(row: TableRow, protocols: Sequence[str], published: Sequence[str]) -> Iterator[str]:
    yield from (row.name, row.framework, row.backbone, row.data, row.epochs, row.features, row.measured_on)
    yield " ".join(map(str, row.seeds))
    for protocol in protocols:
        figure = row.figures.get(protocol)
        yield repr(figure.mean) if figure else NONE
        yield repr(figure.deviation) if figure and figure.deviation is not None else NONE
        yield str(figure.n) if figure else NONE
    yield from (_published(row, name) for name in published)
    yield _sources(row)
    yield from (repr(row.hours.hours), row.hours.unit) if row.hours else (NONE, NONE)
    yield from (" ".join(row.commits), row.data_hash, " ".join(row.runs), "finished")


def _no_formula(text: str) -> str:
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", text)
    return f"'{text}" if text.startswith(_FORMULA) and not is_number else text


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which could begin a line of its own."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
