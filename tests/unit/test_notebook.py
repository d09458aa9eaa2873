"""The notebook of docs/ runs from its first cell to its last, and is kept without what a run leaves in it."""

import json
from pathlib import Path

from notebooks import in_notebook
from saying import says

NOTEBOOK = Path(__file__).parents[2] / "docs" / "trainer.ipynb"


def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_it_runs_to_the_recommendation(monkeypatch, capsys):
    places = in_notebook(monkeypatch)
    names: dict[str, object] = {}
    for cell in cells():
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {cell['id']}", "exec"), names)
    # A picture for each of three seeds, drawn at the first choice and at the end at least.
    assert len(places) == 3
    assert all(len(shown) >= 3 and shown[-1].startswith(b"\x89PNG") for shown in places)
    advice = names["advice"]
    assert len(advice.layers) == 2
    assert names["recommended"].layers_to_transform == list(advice.layers)
    out = capsys.readouterr().out
    assert says(out, f"layers_to_transform={list(advice.layers)}", "trainable params")
    model = names["get_peft_model"](names["base_model"](), names["recommended"])
    adapted = {name.split(".layers.")[1].split(".")[0] for name, _ in model.named_modules() if "lora_A" in name}
    assert adapted == {str(block) for block in advice.layers}


def test_it_holds_no_output():
    assert [cell["outputs"] or cell["execution_count"] for cell in cells()] == [None] * len(cells())
