"""What a model reads of an example: an instruction, and the texts in a template; the same for every split."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

AUTO = "auto"
"""Instruction that irtune words itself, from the dataset's question and its labels."""

NOTHING = "(nothing)"
"""Stands for an empty side of a revision."""

Kind = Literal["revisions", "pairs", "texts"]
"""Revisions of a text, pairs of texts that are no revisions of each other, or single texts."""

FIELDS: dict[Kind, tuple[str, ...]] = {
    "revisions": ("before", "after"),
    "pairs": ("before", "after"),
    "texts": ("text",),
}
"""Names of an example's texts in a template."""

TEMPLATES: dict[Kind, str] = {
    "revisions": "{instruction}\nBefore: {before}\nAfter: {after}",
    "pairs": "{instruction}\nText 1: {before}\nText 2: {after}",
    "texts": "{instruction}\n{text}",
}

_INSTRUCTION = "instruction"


@dataclass(frozen=True)
class Prompt:
    """How examples are put to the model.

    Args:
        kind: What an example's texts are to each other.
        question: What to ask of an example where irtune words the instruction, without question mark.
        instruction: ``auto``, the user's own text, or None to ask nothing.
        template: With ``{instruction}`` and the texts' names in braces; None: the one of ``kind``.

    Raises:
        ValueError: If the template lacks a text, or names one that there is not.
    """

    kind: Kind
    question: str
    instruction: str | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is None:
            return
        used, known = placeholders(self.template), FIELDS[self.kind]
        missing, unknown = [name for name in known if name not in used], used - {*known, _INSTRUCTION}
        if missing or unknown:
            raise ValueError(
                f"data.template: must hold {_braces(known)}, and found {_braces(sorted(used)) or 'no placeholder'}: "
                f"{self.template!r}"
            )

    def asked(self, labels: Sequence[str], *, lists_labels: bool = True) -> str | None:
        """The instruction in words; None where nothing is asked, or the template has no place for it."""
        if not has_instruction(self.template_used):
            return None
        if self.instruction != AUTO:
            return self.instruction
        return f"{self.question}: {', '.join(labels)}?" if lists_labels else f"{self.question}?"

    def render(self, instruction: str | None, texts: Sequence[str]) -> str:
        """The text that the model reads of one example.

        Without an instruction its place in the template goes, and the white space that follows it.
        """
        return self._filled(instruction, [text or NOTHING for text in texts])

    def frame(self, instruction: str | None) -> str:
        """Return what is left of the prompt when all texts are taken out."""
        return self._filled(instruction, [""] * self.num_texts)

    @property
    def num_texts(self) -> int:
        """Return how many texts an example has."""
        return len(FIELDS[self.kind])

    @property
    def template_used(self) -> str:
        """The user's template, or that of ``kind``."""
        return self.template or TEMPLATES[self.kind]

    def _filled(self, instruction: str | None, texts: Sequence[str]) -> str:
        template = self.template_used
        if not instruction:
            template = re.sub(r"\{instruction\}\s*", "", template)
        return template.format(**dict(zip(FIELDS[self.kind], texts, strict=True)), instruction=instruction or "")


def check_template(template: str) -> str:
    """``template`` if it can be filled in.

    Raises:
        ValueError: With the placeholders that are allowed.
    """
    allowed = {name for names in FIELDS.values() for name in names} | {_INSTRUCTION}
    unknown = placeholders(template) - allowed
    if unknown:
        raise ValueError(
            f"unknown placeholder {_braces(sorted(unknown))}; allowed: {_braces(sorted(allowed))}; "
            "a brace that is meant as one is written twice"
        )
    return template


def has_instruction(template: str) -> bool:
    """Return whether a template has a place for an instruction."""
    return _INSTRUCTION in placeholders(template)


def placeholders(template: str) -> set[str]:
    """The names in braces of a template.

    Raises:
        ValueError: If braces don't pair up, or hold more than a name.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; a brace that is meant as one is written twice") from error
    if any(spec or conversion for _, name, spec, conversion in parts if name is not None):
        raise ValueError("braces hold a name and nothing else; a brace that is meant as one is written twice")
    return {name for _, name, _, _ in parts if name is not None}


def _braces(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
