"""ArgRewrite V.2: hand-made workbooks with known revisions, and the published corpus where it is at hand."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest
from saying import refused, says

from irtune.data.argrewrite import CONTENT, SURFACE, ArgRewriteConfig
from irtune.data.dataset import DataError

CORPUS = Path(__file__).parents[3].parent / "shared" / "data" / "argrewrite-v2"
HEADER = ["Sentence Index", "Sentence Content", "Aligned Index", "Identical?"]
HEADER += ["Revision Purpose Level 0", "Revision Operation Level 0"]
OLD = [
    [1.0, "Same.", "1", 1.0],
    [2, "He go.", "2,3", 0.0, "Conventions/Grammar/Spelling,Precision", "Modify,Modify"],
    [3.0, "Gone.", "DELETE", None, "Evidence", "Delete"],
    [4.0, "Odd.", "4", None, "Unannotated", "Modify"],
]
NEW = [
    [1.0, "Same.", "1", 1.0],
    [2.0, "He goes.", "2", 0.0, "Conventions/Grammar/Spelling", "Modify"],
    [3.0, "Home.", "2", 0.0, "Conventions/Grammar/Spelling", "Modify"],
    [4.0, "Odder.", "4", None, "Unannotated", "Modify"],
    [5.0, "A claim.", "ADD", None, "Claims/Ideas", "Add"],
]


def write_workbook(
    root, essay, step="12", annotator="A", old=OLD, new=NEW, header=HEADER, sheets=("Old Draft", "New Draft")
):
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for title, rows in zip(sheets, (old, new), strict=True):
        sheet = workbook.create_sheet(title)
        sheet.append(header)
        for index, text, *rest in rows:
            # Equal texts would tie essays to each other.
            sheet.append([index, text and f"{text} [{essay}]", *rest])
    path = root / "annotations" / annotator / step / f"Annotation_2018argrewrite_{essay}_NEW.txt.xlsx"
    path.parent.mkdir(parents=True, exist_ok=True)
    workbook.save(path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("clone")
    for essay in range(1, 11):
        for step in ("12", "23"):
            write_workbook(root / "dataset", essay, step, "AB"[essay % 2])
    (root / "dataset" / "annotations" / "A" / "12" / "~$Annotation_2018argrewrite_1_NEW.txt.xlsx").write_bytes(b"lock")
    return root


def everything(data):
    return [revision for split in data.splits.values() for revision in split]


def texts(revision):
    """Before and after without the essay's number."""
    return tuple(re.sub(r" \[\d+\]", "", text) for text in revision.texts)


def test_the_revisions_of_one_essay_by_hand(small):
    data = ArgRewriteConfig(path=small).load()
    essay = [(r.id, *texts(r), r.label) for r in everything(data) if r.id.startswith("7/23/")]
    assert sorted(essay) == [
        ("7/23/new/5", "", "A claim.", "Claims/Ideas"),
        ("7/23/old/2", "He go.", "He goes. Home.", "Conventions/Grammar/Spelling"),
        ("7/23/old/3", "Gone.", "", "Evidence"),
    ]
    assert len(everything(data)) == 10 * 2 * 3
    assert data.labels == SURFACE + CONTENT
    assert data.num_skipped == 0
    asked = replace(data.prompt, instruction="auto").asked(data.labels)
    assert "\n" not in asked
    assert all(label in asked for label in data.labels)


def test_an_essay_is_in_one_split_only(small):
    config = ArgRewriteConfig(path=small, validation_fraction=0.2, test_fraction=0.3)
    essays = {split: {r.id.split("/")[0] for r in part} for split, part in config.load().splits.items()}
    assert {split: len(part) for split, part in essays.items()} == {"train": 5, "validation": 2, "test": 3}
    assert len(set.union(*essays.values())) == 10
    assert config.load().fingerprint() == config.load().fingerprint()
    drawn = [config.model_copy(update={"seed": seed}).load().fingerprint() for seed in range(4)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("below", ["", "dataset", "dataset/annotations"])
def test_the_path_may_be_the_clone_or_a_folder_in_it(small, below):
    assert (
        ArgRewriteConfig(path=small / below).load().fingerprint() == ArgRewriteConfig(path=small).load().fingerprint()
    )


def test_operations_choose_the_kinds_of_revision(small):
    modified = everything(ArgRewriteConfig(path=small, operations=("modify",)).load())
    assert {texts(r) for r in modified} == {("He go.", "He goes. Home.")}
    others = everything(ArgRewriteConfig(path=small, operations=("add", "delete")).load())
    assert {texts(r) for r in others} == {("", "A claim."), ("Gone.", "")}


def test_surface_and_content_stand_for_the_nine_purposes(small):
    data = ArgRewriteConfig(path=small, labels="surface_content").load()
    assert data.labels == ("surface", "content")
    assert {(texts(r)[0], r.label) for r in everything(data)} == {
        ("He go.", "surface"),
        ("Gone.", "content"),
        ("", "content"),
    }


def test_a_path_without_workbooks_is_refused(tmp_path):
    with refused(DataError, "no workbooks", "github.com/omidkashefi/ArgRewrite"):
        ArgRewriteConfig(path=tmp_path).load()
    with pytest.raises(DataError, match="is no folder"):
        ArgRewriteConfig(path=tmp_path / "none").load()


def test_bad_rows_are_named_by_sheet_and_row_or_skipped(tmp_path):
    bad = [
        *OLD,
        [5.0, "x", "9", None, "Evidence", "Modify"],
        [6.0, "y", "2", None, "Beauty", "Modify"],
        [7.0, None, "DELETE", None, "Evidence", "Delete"],
        [8.0, "z", "2", None, "Evidence", "Move"],
    ]
    for essay in range(3, 8):
        write_workbook(tmp_path, essay)
    path = write_workbook(tmp_path, 8, old=bad)
    with pytest.raises(DataError) as error:
        ArgRewriteConfig(path=tmp_path).load()
    text = str(error.value)
    assert text.startswith("4 of 22 rows")
    assert says(text, f"1 rows: {path}, Old Draft, row 6 … sentence 9", "aligned sentence")
    assert says(text, f"unknown label, 1 rows: {path}, Old Draft, row 7 … 'Beauty' … Word-Usage/Clarity")
    assert says(text, f"before and after … empty, 1 rows: {path}, Old Draft, row 8")
    assert says(text, f"unknown operation, 1 rows: {path}, Old Draft, row 9 … 'move' … modify, delete")
    data = ArgRewriteConfig(path=tmp_path, skip_bad_rows=True).load()
    assert data.num_skipped == 4
    assert len(everything(data)) == 18


def test_files_that_are_no_such_workbooks_are_named(tmp_path):
    path = write_workbook(tmp_path, 1, header=[*HEADER[:2], "Aligned", *HEADER[3:]])
    with refused(DataError, "Old Draft: … Aligned Index", re.compile("found Sentence Index, .*Aligned, ")):
        ArgRewriteConfig(path=tmp_path).load()
    write_workbook(tmp_path, 1, sheets=("Old Draft", "Newer Draft"))
    with refused(DataError, "New Draft … Old Draft, Newer Draft"):
        ArgRewriteConfig(path=tmp_path).load()
    path.write_bytes(b"no workbook")
    with refused(DataError, "cannot be read"):
        ArgRewriteConfig(path=tmp_path).load()
    path.rename(path.with_name("essay.xlsx"))
    with pytest.raises(DataError, match="holds no essay number"):
        ArgRewriteConfig(path=tmp_path).load()


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the published corpus is not at {CORPUS}")
def test_the_published_corpus_has_its_known_counts():
    data = ArgRewriteConfig(path=CORPUS).load()
    revisions = everything(data)
    assert len(revisions) == len({revision.id for revision in revisions}) == 3291
    assert Counter(revision.label for revision in revisions) == {
        "Word-Usage/Clarity": 1049,
        "General Content Development": 726,
        "Warrant/Reasoning/Backing": 630,
        "Conventions/Grammar/Spelling": 241,
        "Claims/Ideas": 236,
        "Evidence": 202,
        "Precision": 85,
        "Organization": 79,
        "Rebuttal/Reservation": 43,
    }
    assert sum(not revision.texts[0] for revision in revisions) == 1083
    essays = {split: {r.id.split("/")[0] for r in part} for split, part in data.splits.items()}
    shares = {split: len(part) / len(revisions) for split, part in data.splits.items()}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.01)
    assert len(set.union(*essays.values())) == 86
    assert all({r.label for r in part} == set(data.labels) for part in data.splits.values())
