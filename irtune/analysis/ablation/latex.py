"""A table as LaTeX that needs the package booktabs alone, and pdflatex unless it says otherwise."""

import re
from collections.abc import Sequence

from irtune.analysis.tables import TextTable

_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # After the end of a line a star or a bracket is read as belonging to it; others have another glyph in this font.
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "«": r"$\ll$",
    "»": r"$\gg$",
}
# Letters of western Europe, and marks that the fonts of pdflatex have.
_AVAILABLE = re.compile(r"[\x00-\x7fÀ-ÏÑ-Ýßà-ïñ-ýÿ—‘’“”…°]*")
_LACKING = "% pdflatex lacks characters of this table: compile it with lualatex or xelatex, and a font that has them"


def escaped(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(_CHARACTERS.get(character, character) for character in text)


def bold(text: str) -> str:
    """Set LaTeX in bold."""
    return rf"\textbf{{{text}}}"


def latex_table(headings: Sequence[str], body: Sequence[Sequence[str]], justify: str, caption: str) -> str:
    r"""A table that stands on its own.

    Args:
        headings: Plain text, one for each column.
        body: Lines of LaTeX, one text for each column.
        justify: ``l`` or ``r`` for each column.
        caption: Plain text.

    Example:
        >>> print(latex_table(["cell", "F1"], [["all", bold("0.5")]], "lr", "50 %").splitlines()[8])
        all & \textbf{0.5} \\
    """
    text = "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\begin{{tabular}}{{{justify}}}",
            r"\toprule",
            " & ".join(map(escaped, headings)) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
    return text if _AVAILABLE.fullmatch(text) else f"{_LACKING}\n{text}"


def latex_of(table: TextTable, caption: str, of_best: int | None = None) -> str:
    """A table of plain text as LaTeX.

    Args:
        table: What terminal and report show.
        caption: Plain text.
        of_best: The column, counted from 0, that is bold in lines that are marked as the best.
    """
    body = [
        [
            bold(escaped(cell)) if line.is_best and index == of_best else escaped(cell)
            for index, cell in enumerate(line.cells)
        ]
        for line in table.lines
    ]
    justify = "".join("l" if column.justify == "left" else "r" for column in table.columns)
    return latex_table([column.heading for column in table.columns], body, justify, caption)
