"""A table as LaTeX that needs the package booktabs alone."""

from collections.abc import Sequence

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
    "±": r"$\pm$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


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
    return "\n".join(
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
