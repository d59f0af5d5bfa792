"""Tables that are written as plain text, as Markdown and as LaTeX, whatever names are in them."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence

_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in "\\`*_[]|~#$"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    # What LaTeX would join to another sign.
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in %, such as an accuracy or a difference of two.

    Attributes:
        value: between 0 and 1; for a difference between -1 and 1.
        half: half the width of its interval; None where there is none.
        signed: whether a plus is written.
        best: whether it stands out.
    """

    value: float
    half: float | None = None
    signed: bool = False
    best: bool = False

    def text(self) -> str:
        """The number as plain text, such as `+1.2 ± 0.4`."""
        sign = "+" if self.signed else ""
        value = f"{100 * self.value:{sign}.1f}".replace("-", "−")
        return value if self.half is None else f"{value} ± {100 * self.half:.1f}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows, one line.
        head: the names of the columns.
        rows: texts and numbers, one for each column.
        names: how many columns, from the left, hold names; the others are set to the right.
        notes: sentences below the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Number]]
    names: int = 1
    notes: Sequence[str] = ()


def as_text(table: Table) -> str:
    """Writes a table for a terminal."""
    lines = [table.head, *table.rows]
    cells = [[_plain(c.text() if isinstance(c, Number) else c) for c in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown = [
        "  ".join(
            cell.ljust(width) if place < table.names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    rule = "-" * max(map(len, shown))
    notes = [_plain(note) for note in table.notes]
    return "\n".join([_plain(table.title), rule, shown[0], rule, *shown[1:], rule, *notes])


def as_markdown(table: Table) -> str:
    """Writes a table for a page in Markdown (GitHub's kind)."""
    rule = [":--"] * table.names + ["--:"] * (len(table.head) - table.names)
    lines = [[markdown(name) for name in table.head], rule]
    lines += [[_cell(cell, markdown, "**{}**") for cell in row] for row in table.rows]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"\n\n{markdown(note)}" for note in table.notes)
    return f"**{markdown(table.title)}**\n\n{rows}{notes}"


def as_latex(table: Table) -> str:
    """Writes a table for a paper; it needs the packages booktabs and textcomp."""
    columns = "l" * table.names + "r" * (len(table.head) - table.names)
    lines = [[_cell(cell, latex, r"\textbf{{{}}}") for cell in row] for row in table.rows]
    caption = " ".join([f"{latex(table.title)}.", *map(latex, table.notes)])
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {' & '.join(map(latex, table.head))} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(line)} \\\\" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def markdown(text: str) -> str:
    """Escapes a text, so that Markdown and HTML show it as it is."""
    return _replaced(_plain(text), _MARKDOWN)


def latex(text: str) -> str:
    """Escapes a text, so that LaTeX shows it as it is."""
    escaped = _replaced(_plain(text), _LATEX)
    # At the beginning of a row these would be read as an argument of the command before it.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _cell(cell: str | Number, escape: Callable[[str], str], strong: str) -> str:
    if not isinstance(cell, Number):
        return escape(cell)
    return strong.format(escape(cell.text())) if cell.best else escape(cell.text())


def _plain(text: str) -> str:
    """Puts a text on one line, without signs that cannot be seen."""
    text = "".join(" " if unicodedata.category(sign)[0] == "C" else sign for sign in text)
    return re.sub(r"\s+", " ", text).strip()


def _replaced(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in text)
