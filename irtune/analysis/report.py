"""The report of a sweep: one HTML file that needs nothing else, neither network nor server."""

import base64
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from irtune.analysis.answer import Answer
from irtune.analysis.finalists_view import finalist_table
from irtune.analysis.metrics import Mode
from irtune.analysis.tables import trial_table
from irtune.analysis.trials import TrialRow, metric_of


def render_report(
    *,
    title: str,
    answer: Answer,
    rows: Sequence[TrialRow],
    front: Sequence[TrialRow] = (),
    figures: Mapping[str, bytes | None] | None = None,
    data: Mapping[str, str] | None = None,
    data_notes: Sequence[str] = (),
    best_yaml: str = "",
    heat_maps: Mapping[str, bytes] | None = None,
    tracking_command: str = "",
    tracking_url: str = "",
    provenance: Mapping[str, object] | None = None,
    mode: Mode = "max",
) -> str:
    """The page as text; everything given is escaped, and what is not given is left out.

    Args:
        title: Heading of the page.
        answer: What the sweep found.
        rows: All trials of the search, for the table.
        front: The trials on the Pareto front.
        figures: As PNG ``response``, ``pareto`` and ``finalists``, as far as there are any.
        data: What to know of the data, by what it is about: sizes, lengths, what the model is asked.
        data_notes: What was guessed in reading the data, and what looks doubtful.
        best_yaml: Configuration of the best trial.
        heat_maps: Layer traces as PNG by caption, in the order to show them.
        tracking_command: Command that opens the tracker.
        tracking_url: Address of the sweep in the tracker; a link if it is http or https.
        provenance: What the results come from: versions, machine, commit, data and its fingerprint.
        mode: Whether more or less of the validation score is better.
    """
    page = environment().get_template("report.html")
    return page.render(
        title=title,
        answer=answer,
        trials=trial_table(rows, mode, front),
        first_objective=next(iter(rows[0].objectives), None) if rows else None,
        score=metric_of(rows).words,
        finalists=finalist_table(answer.finalists),
        figures=figures or {},
        data=data,
        data_notes=data_notes,
        best_yaml=best_yaml,
        heat_maps=heat_maps,
        tracking_command=tracking_command,
        tracking_url=tracking_url,
        # Escaping does not disarm an address such as javascript:…, so only a web address becomes a link.
        is_link=tracking_url.startswith(("http://", "https://")),
        provenance=provenance,
    )


def environment() -> Environment:
    """Of all pages: everything is escaped, and what a page names has to be given."""
    made = Environment(
        loader=PackageLoader("irtune", "analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["embedded"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    # Two thirds of a figure's own size leave its text legible; what is wider than a phone scrolls.
    made.filters["legible_px"] = lambda png: max(640, int.from_bytes(png[16:20], "big") * 2 // 3)
    return made
