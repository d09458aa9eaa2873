import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from irtune.analysis.answer import answer_sweep
from irtune.analysis.report import render_report
from irtune.analysis.tables import COLUMNS
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
EVIL = "<script>alert('x')</script>&\"quoted\""


class Page(HTMLParser):
    """Text by element, attributes, and whether what was opened was closed."""

    void = frozenset({"meta", "img", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(data.strip())

    def attributes(self, name: str) -> list[str]:
        return [str(attrs[name]) for _, attrs in self.seen if name in attrs]


@pytest.fixture
def rows(trial: Trial) -> list[TrialRow]:
    return [trial("all", num_wrong=160), trial(num_wrong=80), trial("lisa", status="pruned", test_score=None)]


def report(rows: list[TrialRow], **replaced: Any) -> str:
    return render_report(**{"title": "a sweep", "answer": answer_sweep(rows), "rows": rows, **replaced})


def full(rows: list[TrialRow], text: str) -> str:
    return report(
        rows,
        title=text,
        figures={"response": b"response", "pareto": None},
        data={"data": text},
        data_notes=[text],
        best_yaml=text,
        heat_maps={text: b"best map", "baseline": b"baseline map"},
        tracking_command=text,
        tracking_url=f"http://127.0.0.1:5000/{text}",
        provenance={text: text, "versions": 3},
    )


def test_everything_given_is_on_the_page(rows: list[TrialRow]) -> None:
    answer = answer_sweep(rows)
    page = Page(full(rows, "selection.policy.k: 3"))
    assert not page.open
    assert answer.sentence in page.text["p"]
    assert {*answer.caveats, "selection.policy.k: 3"} == set(page.text["li"])
    assert "The data" in page.text["h2"]
    assert page.text["pre"] == ["selection.policy.k: 3"] * 2
    assert page.text["h1"] == page.text["title"] == ["selection.policy.k: 3"]
    assert page.text["td"][-2:] == ["selection.policy.k: 3", "3"]
    images = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in page.attributes("src")]
    assert images == [b"response", b"best map", b"baseline map"]


def test_the_table_has_every_trial_and_column_with_best_and_baseline_marked(rows: list[TrialRow]) -> None:
    html = report(rows)
    body = re.search(r"<tbody>(.*)</tbody>", html, re.DOTALL)
    assert body is not None
    lines = re.findall(r"<tr class=\"([^\"]*)\">(.*?)</tr>", body[1], re.DOTALL)
    assert [line.count("<td") for _, line in lines] == [len(COLUMNS)] * 3
    assert [kind.split() for kind, _ in lines] == [["best"], [], ["baseline"]]
    assert "best</span>" in lines[0][1]
    assert "baseline</span>" in lines[2][1]


def test_html_in_names_and_settings_is_text(rows: list[TrialRow], trial: Trial) -> None:
    html = full([*rows, trial(EVIL, name=EVIL, within_block=EVIL, num_wrong=0)], EVIL)
    page = Page(html)
    assert not page.open
    assert "script" not in {tag for tag, _ in page.seen}
    assert EVIL in page.text["h1"]
    assert EVIL in page.text["pre"]
    assert EVIL in page.text["td"]
    assert EVIL in page.text["li"]
    assert EVIL in page.text["figcaption"]
    assert any(EVIL in text for text in page.text["p"])


def test_nothing_is_loaded_from_elsewhere(rows: list[TrialRow]) -> None:
    html = full(rows, "x")
    page = Page(html)
    assert all(source.startswith("data:") for source in page.attributes("src"))
    assert page.attributes("href") == ["http://127.0.0.1:5000/x"]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.seen}
    assert "url(" not in html
    assert "@import" not in html


def test_only_a_web_address_becomes_a_link(rows: list[TrialRow]) -> None:
    page = Page(report(rows, tracking_url="javascript:alert(1)"))
    assert not page.attributes("href")
    assert any("javascript:alert(1)" in text for text in page.text["p"])


def test_what_is_not_given_leaves_no_empty_section(rows: list[TrialRow]) -> None:
    assert Page(report(rows)).text["h2"] == ["Before relying on it", "Trials"]
    assert Page(report([])).text["p"][-1] == "There is no trial."
