"""Whether LaTeX takes what was written for it."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: apt install texlive-latex-recommended)"
)
"""Of tests that compile; the package has booktabs too."""


def compiled(body: str, folder: Path) -> str:
    """What LaTeX says of a page that needs booktabs alone, which it has to take; warnings included."""
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (folder / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    finished = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    said = finished.stdout.decode("utf-8", "replace")
    assert finished.returncode == 0, said
    return said
