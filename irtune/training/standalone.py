"""What a model's folder holds for those who have no irtune: a README, and lines of transformers and PEFT."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irtune.data.prompt import FIELDS, NOTHING
from irtune.training.pretrained import BUILT_IN
from irtune.training.quantized import SCRIPT_LAYOUT, saved_head, script_arguments

SCRIPT, README = "predict.py", "README.md"

_OF_ADAPTER = '''"""Classifies texts with the adapter beside this file, by torch, transformers and peft (see README)."""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer{quantization_import}

BASE, REVISION = {base}, {revision}
'''

_OF_MERGED = '''"""Classifies texts with the model beside this file, by torch and transformers (see README)."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BASE, REVISION = str(Path(__file__).parent), None
'''

_SCRIPT = '''LABELS = {labels}
TEMPLATE = {template}
MAX_LENGTH = {max_length}

tokenizer = AutoTokenizer.from_pretrained(BASE, revision=REVISION)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForSequenceClassification.from_pretrained(
    BASE,
    revision=REVISION,
    num_labels=len(LABELS),
    pad_token_id=tokenizer.pad_token_id,
    dtype=torch.{loaded},{quantized}
)
model = {adapted}.to(torch.{dtype}).eval(){one_layout}


def predict(examples):
    """Probabilities of LABELS, (N, C); an example is {of_an_example}."""
    prompts = [TEMPLATE.format(*(text or {nothing} for text in texts)) for texts in examples]
    batch = tokenizer(
        prompts, padding=True, padding_side="right", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits.double().softmax(dim=-1)


if __name__ == "__main__":
    (probabilities,) = predict([sys.argv[1:]]).tolist()
    for label, probability in sorted(zip(LABELS, probabilities), key=lambda pair: -pair[1]):
        print(f"{{probability:.4f}} {{label}}")
'''

_README = """---
library_name: {library}
pipeline_tag: text-classification
---

# A classifier of {num} labels

{what}, trained by irtune on {data}, {base_is} `{base}`{at}.

- **Labels**, in order of class: {labels}.
- **An example** is {of_an_example}. The model reads it in this template{asks}, at most {max_length} tokens of it:

```text
{template}
```

`python {script} {arguments}` prints the probabilities of one example; its function `predict` takes many. It needs
{needs}, and not irtune.{change} {script} cuts off the end of texts that are longer than {max_length} tokens;
`irtune predict` on the adapter shortens them as training did, and else gives the same but for the last digits.

{last}Nothing here is pickled.
"""

_ADAPTER_WORDS = {
    "library": "peft",
    "what": "A PEFT adapter with a classification head",
    "base_is": "for the base model",
    "needs": "torch, transformers and peft",
    "change": " Change `BASE` there where the base model lies elsewhere.",
    "last": "`irtune.json` holds what the run was: all settings, labels and prompt. ",
}
_MERGED_WORDS = {
    "library": "transformers",
    "what": "A model with a classification head and the weights of a PEFT adapter merged into it in fp32",
    "base_is": "from the base model",
    "needs": "torch and transformers",
    "change": "",
    "last": "",
}


def write_standalone(folder: Path, notes: Mapping[str, Any], base: str, *, merged: bool = False) -> None:
    """Write ``README.md`` and ``predict.py`` into a model's folder.

    Args:
        folder: Of an adapter, or of a whole model.
        notes: What ``irtune.json`` says of the run.
        base: The folder of the base model, for models that are on no hub.
        merged: Whether it is a whole model, with the adapter merged into it.
    """
    model, kind = notes["settings"]["model"], notes["kind"]
    of_hub = model["name"] not in BUILT_IN and not Path(model["name"]).expanduser().exists()
    name, revision = (model["name"], model["revision"]) if of_hub else (base, None)
    template = _with_instruction(notes["template"], notes["instruction"])
    of_an_example = {"texts": "a tuple of its text"}.get(kind, "a tuple of two texts, before and after")
    precision = notes["settings"]["engine"]["precision"]
    dtype = "bfloat16" if precision == "bf16" else "float32"
    quantization = None if merged else model.get("quantization")
    quantized = script_arguments(quantization, saved_head(folder), dtype) if quantization else ""
    imported = ", BitsAndBytesConfig" if quantization else ""
    of_adapter = _OF_ADAPTER.format(base=repr(name), revision=repr(revision), quantization_import=imported)
    script = (_OF_MERGED if merged else of_adapter) + _SCRIPT.format(
        adapted="model" if merged else "PeftModel.from_pretrained(model, str(Path(__file__).parent))",
        labels=repr(list(notes["labels"])),
        template=repr(_by_place(template, FIELDS[kind])),
        max_length=notes["max_length"],
        dtype=dtype,
        # Matrices are packed by what they are when they are read.
        loaded=dtype if quantization else "float32",
        quantized=f"\n    {quantized}," if quantized else "",
        one_layout=SCRIPT_LAYOUT if quantization == "4bit" else "",
        of_an_example=of_an_example,
        nothing=repr(NOTHING),
    )
    readme = _README.format(
        **(_MERGED_WORDS if merged else _ADAPTER_WORDS),
        num=len(notes["labels"]),
        data=notes["data"],
        base=name,
        at=f" at `{revision}`" if revision else "",
        labels=", ".join(f"`{label}`" for label in notes["labels"]),
        of_an_example="one text" if kind == "texts" else "two texts, before and after",
        asks=", in which it is asked for the label" if notes["instruction"] else "",
        max_length=notes["max_length"],
        template=template,
        script=SCRIPT,
        arguments=" ".join(field.upper() for field in FIELDS[kind]),
    )
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    (folder / README).write_text(readme, encoding="utf-8")


def _with_instruction(template: str, instruction: str | None) -> str:
    if not instruction:
        return re.sub(r"\{instruction\}\s*", "", template)
    return template.replace("{instruction}", instruction.replace("{", "{{").replace("}", "}}"))


def _by_place(template: str, fields: tuple[str, ...]) -> str:
    for place, field in enumerate(fields):
        template = template.replace(f"{{{field}}}", f"{{{place}}}")
    return template
