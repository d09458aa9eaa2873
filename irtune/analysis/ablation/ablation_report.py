"""The report of an ablation: one HTML file that needs nothing else, neither network nor server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from irtune.analysis.ablation.best import BEST, best_shown
from irtune.analysis.ablation.cell_figures import told_apart
from irtune.analysis.ablation.cell_tables import cell_table
from irtune.analysis.ablation.claims import ClaimResult
from irtune.analysis.ablation.class_scores import per_class
from irtune.analysis.ablation.cost_table import cost_table
from irtune.analysis.ablation.evidence_table import evidence_table
from irtune.analysis.ablation.factor_figure import TRAINING_SIZE
from irtune.analysis.ablation.findings import AblationFindings
from irtune.analysis.ablation.knee import K
from irtune.analysis.ablation.methods_by_corpus import methods_by_corpus
from irtune.analysis.ablation.stability import Choices
from irtune.analysis.ablation.stability_tables import stability_tables
from irtune.analysis.ablation.steps_to_target import arrival_table
from irtune.analysis.report import environment
from irtune.analysis.tables import MISSING

_USUAL = "Drawn are the cells at the first level of every factor; the table below has all."


@dataclass(frozen=True)
class Picture:
    """A figure, and what to read off it.

    Args:
        png: The image.
        caption: Beside it; may be empty.
    """

    png: bytes
    caption: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class AblationReport:
    """The contents of the report of a study; what is empty is left out.

    Args:
        title: Heading of the page.
        findings: What the study found.
        matched: What the cells have in common.
        claims_record: When the claims were recorded, and the study's SHA-256.
        choices: What the trials of each cell chose, by the cell's name.
        figures: PNG by name: cells, trade_off, curves, selection.
        factors: By dotted key.
        confusions: By corpus; None where there is only one.
        heat_maps: Layer traces as PNG by caption.
        class_names: Of the task, by corpus.
        failures: Trials that did not finish, in words.
        data: What to know of the data.
        tracking_command: What opens the tracker.
        tracking_url: The study in the tracker.
        command: What repeats the study.
        study_yaml: The study's file.
        provenance: What the results come from.
    """

    title: str
    findings: AblationFindings
    matched: str
    claims_record: Mapping[str, str]
    command: str
    study_yaml: str
    class_names: Mapping[str | None, Sequence[str]]
    choices: Mapping[str, Sequence[Choices]] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    factors: Mapping[str, Picture] = field(default_factory=dict)
    confusions: Mapping[str | None, bytes] = field(default_factory=dict)
    heat_maps: Mapping[str, bytes] = field(default_factory=dict)
    failures: Sequence[str] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    tracking_command: str = ""
    tracking_url: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)


def render_ablation(report: AblationReport) -> str:
    """The page as text; everything given is escaped."""
    findings, results = report.findings, report.findings.results
    # k is what the study is about, and what it takes of data comes after what it costs.
    factors = dict(sorted(report.factors.items(), key=lambda each: each[0] != K))
    per_corpus = {
        corpus: (names, per_class([one for one in results if one.cell.corpus == corpus], names))
        for corpus, names in report.class_names.items()
    }
    return (
        environment()
        .get_template("ablation.html")
        .render(
            report=report,
            title=report.title,
            claims=[_claim_row(claim) for claim in findings.claims],
            size=factors.pop(TRAINING_SIZE, None),
            factors=factors,
            methods=methods_by_corpus(results),
            cells=cell_table(results),
            evidence=evidence_table(results),
            costs=cost_table(results),
            best=BEST if best_shown(results) else "",
            curves_caption="" if len(told_apart(results)) == len(results) else _USUAL,
            arrivals=arrival_table(findings.arrivals),
            stability=stability_tables(results, report.choices),
            per_class={corpus: pair for corpus, pair in per_corpus.items() if pair[1]},
            # Escaping does not disarm an address such as javascript:…, so only a web address becomes a link.
            is_link=report.tracking_url.startswith(("http://", "https://")),
        )
    )


def _claim_row(claim: ClaimResult) -> dict[str, object]:
    found, interval = claim.comparison, claim.interval
    margin = "" if claim.claimed.margin is None else f", or as good within {claim.claimed.margin:g}"
    where = "" if claim.corpus is None else f" on {claim.corpus}"
    return {
        "text": f"{claim.claimed.better} is better than {claim.claimed.than}{margin}{where}",
        "state": claim.state,
        "sentence": claim.sentence,
        "difference": MISSING if found is None else f"{found.difference[0]:+.3f}",
        "interval": MISSING if found is None else f"{found.difference[1]:+.3f} to {found.difference[2]:+.3f}",
        "examples": MISSING if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}",
        "seeds": len(claim.seeds),
    }
