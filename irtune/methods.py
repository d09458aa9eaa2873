"""Named presets: what a paper or a habit calls a method, as settings by dotted key.

They are data and know no other part of irtune, so that configurations (``irtune/config/method_settings.py``) and the
plug-in (``irtune/layers/presets.py``) read the same table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """A preset.

    Args:
        name: What ``method`` calls it.
        summary: What it does, in one line.
        source: Where it comes from, and where its settings deviate.
        settings: Dotted key -> value. Names of variants (``selection.policy.name``) make the method what it is; the
            others are defaults that a configuration may replace.
    """

    name: str
    summary: str
    source: str
    settings: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, str]:
        """Section -> the variant without which it would be another method."""
        return {key.removesuffix(".name"): value for key, value in self.settings.items() if key.endswith(".name")}

    @property
    def defaults(self) -> dict[str, Any]:
        """The other settings, by dotted key."""
        return {key: value for key, value in self.settings.items() if not key.endswith(".name")}


IR_TUNING = "Liu & Litman, Findings of EMNLP 2025 (arXiv 2510.00268)"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "ir",
            "IR-Tuning: blocks above the cut of the sorted gradient norms at which both sides vary least",
            f"{IR_TUNING}. Deviations are those of policy and signal; ir_authors has none of them.",
            {"selection.policy.name": "variance_split", "importance.name": "gradient_norm"},
        ),
        Method(
            "ir_top_k",
            "the third of the blocks with the largest gradient norms",
            f"The ranking of {IR_TUNING}, with a fixed number in place of the cut.",
            {"selection.policy.name": "top_k", "selection.policy.k": 0.33, "importance.name": "gradient_norm"},
        ),
        Method(
            "ir_cosine",
            "IR-Tuning's cut by cosine similarity: the blocks that change the hidden states most",
            f"A variant in the code of {IR_TUNING}.",
            {
                "selection.policy.name": "variance_split",
                "selection.policy.keep": "low",
                "importance.name": "cosine_similarity",
            },
        ),
        Method(
            "ir_weight",
            "IR-Tuning's cut by the norm of the pretrained output projection of attention",
            f"A variant in the code of {IR_TUNING}. Models that call that matrix otherwise need importance.modules.",
            {
                "selection.policy.name": "variance_split",
                "importance.name": "weight_norm",
                "importance.modules": "o_proj",
            },
        ),
        Method(
            "ir_authors",
            "IR-Tuning as in its authors' code, with all quirks and a classification head that stays random",
            f"The code of {IR_TUNING}. Adapter, optimizer and data are no part of it.",
            {
                "selection.policy.name": "variance_split",
                "selection.policy.window": [0.35, 0.65],
                "selection.policy.cut": "authors",
                "selection.policy.initial_score": 1000.0,
                "selection.reselect_every": 1,
                "importance.name": "gradient_norm",
                "importance.tensors": "all",
                "importance.gradient": "local",
                "importance.within_block": "root_of_roots",
                "importance.frozen_blocks": "stale",
                "importance.nonfinite_norm": 1000.0,
                "model.train_head": False,
            },
        ),
        Method(
            "lisa",
            "LISA: two random blocks, drawn anew every 20 steps",
            "Pan et al., LISA (arXiv 2403.17919), where larger models take 4 blocks.",
            {"selection.policy.name": "random", "selection.policy.k": 2, "selection.reselect_every": 20},
        ),
        Method(
            "lisa_blocks_only",
            "LISA without the group that it always trains: the classification head stays random too",
            "Pan et al., LISA (arXiv 2403.17919), whose embeddings and head train at every step; with adapters that is "
            "the head. It shows what the blocks learn alone.",
            {
                "selection.policy.name": "random",
                "selection.policy.k": 2,
                "selection.reselect_every": 20,
                "model.train_head": False,
            },
        ),
        Method(
            "grass",
            "GRASS: two random blocks every 20 steps, likelier those of large mean gradient norm so far",
            "Tian et al., GRASS (ACL 2026, arXiv 2604.07808). How norms become probabilities, how far back the mean "
            "reaches, k and the period are left open by what we could read of it: here in proportion, to the beginning "
            "(importance.over_time=ema forgets), and as LISA. The gradients are those of lora_B; nothing is offloaded.",
            {
                "selection.policy.name": "weighted_random",
                "selection.policy.k": 2,
                "selection.reselect_every": 20,
                "importance.name": "gradient_norm",
                "importance.within_block": "mean",
                "importance.over_time": "mean",
            },
        ),
        Method(
            "rst",
            "RST: an eighth of the blocks at random, drawn anew at every step",
            f"A baseline of {IR_TUNING}, there 4 of 32 blocks.",
            {"selection.policy.name": "random", "selection.policy.k": 0.125, "selection.reselect_every": 1},
        ),
        Method(
            "ist",
            "IST: a quarter of the blocks at every step, likelier those whose suppression hurt",
            "Yao et al., Findings of EMNLP 2024 (2024.findings-emnlp.109).",
            {"selection.policy.name": "ist", "selection.policy.k": 0.25, "selection.reselect_every": 1},
        ),
        Method(
            "owlore",
            "OwLore: five random blocks every 50 steps, likelier those with many outliers among their weights",
            "Li et al., OwLore (arXiv 2405.18380).",
            {
                "selection.policy.name": "weighted_random",
                "selection.policy.k": 5,
                "selection.reselect_every": 50,
                "importance.name": "outlier_ratio",
            },
        ),
        Method(
            "badam",
            "BAdam: one block for 50 steps, then the next, with fresh optimizer state",
            "Luo et al., BAdam (arXiv 2404.02827).",
            {
                "selection.policy.name": "block_order",
                "selection.policy.group_size": 1,
                "selection.reselect_every": 50,
                "selection.on_thaw": "reset",
            },
        ),
        Method(
            "auto_freeze",
            "AutoFreeze: a frozen prefix that grows over blocks whose gradient norm has settled",
            "Liu, Agarwal & Venkataraman, AutoFreeze (arXiv 2102.01386), there every 500 steps of long training.",
            {"selection.policy.name": "auto_freeze", "importance.name": "gradient_norm"},
        ),
        Method(
            "progressive",
            "a frozen prefix that grows linearly over the second half of training",
            "Layer freezing of MosaicML Composer.",
            {"selection.policy.name": "progressive", "selection.policy.start": 0.5, "selection.policy.end": 1.0},
        ),
        Method(
            "grad_es",
            "GradES: each block stops for good once its gradient norm has settled",
            "Wen et al., GradES (arXiv 2509.01842).",
            {"selection.policy.name": "grad_es", "importance.name": "gradient_norm"},
        ),
        Method(
            "rgn",
            "surgical fine-tuning: the third of the blocks with the largest gradient relative to their weights",
            "Lee et al., surgical fine-tuning (arXiv 2210.11466).",
            {
                "selection.policy.name": "top_k",
                "selection.policy.k": 0.33,
                "importance.name": "relative_gradient_norm",
                "importance.over_time": "mean",
            },
        ),
        Method(
            "ada_grad_select",
            "AdaGradSelect: at first the blocks of largest gradient norm, later those that were chosen most",
            "Kumar, Gupta & Chawla, AdaGradSelect (arXiv 2512.15764).",
            {
                "selection.policy.name": "ada_grad_select",
                "selection.policy.k": 0.33,
                "importance.name": "gradient_norm",
                "importance.over_time": "mean",
            },
        ),
        Method(
            "spectrum",
            "Spectrum: the half of the blocks whose weights stand out most from noise, chosen once",
            "Hartford et al., Spectrum (arXiv 2406.06623).",
            {
                "selection.policy.name": "top_k",
                "selection.policy.k": 0.5,
                "selection.reselect_every": 0,
                "importance.name": "signal_to_noise",
            },
        ),
        Method(
            "aletheia",
            "Aletheia: the half of the blocks with the largest gradient norms of one probe, chosen once",
            "Saket, Aletheia (arXiv 2604.15351); norms of a block's matrices are summed as in its code. There the "
            "gradients are those of the pretrained weights over five batches of one example, and attention and MLP "
            "have ranks of their own; here those of lora_B in the first step, at equal ranks.",
            {
                "selection.policy.name": "top_k",
                "selection.policy.k": 0.5,
                "selection.reselect_every": 0,
                "importance.name": "gradient_norm",
                "importance.within_block": "sum",
            },
        ),
        Method(
            "cka",
            "layer-wise LoRA by CKA: the half of the blocks that change most how examples are alike, chosen once",
            "Ogawa et al. (arXiv 2602.05988). Deviations are those of the signal.",
            {
                "selection.policy.name": "top_k",
                "selection.policy.k": 0.5,
                "selection.reselect_every": 0,
                "importance.name": "cka_distance",
            },
        ),
        *(
            Method(
                which,
                f"{where}, chosen once",
                source,
                {
                    "selection.policy.name": "static",
                    "selection.policy.which": which,
                    "selection.policy.k": 0.33,
                    "selection.reselect_every": 0,
                },
            )
            for which, where, source in (
                ("first", "the third of the blocks next to the input", "A control."),
                ("last", "the third of the blocks next to the head", "Freeze training of LLaMA-Factory."),
                (
                    "middle",
                    "the third of the blocks in the middle",
                    "Mid-block tuning of Zhao et al. (ACL 2026, arXiv 2604.11838), whose code tries one to three "
                    "fifths of the blocks at a rank that keeps the number of parameters; here a third, as the other "
                    "controls, at the same rank.",
                ),
                ("strided", "a third of the blocks, evenly spread", "The places of LLaMA Pro (arXiv 2401.02415)."),
            )
        ),
        Method(
            "cost_aware",
            "the most important set of blocks for three quarters of the cost of a full step",
            "This project.",
            {"selection.policy.name": "cost_aware", "selection.policy.budget": 0.75},
        ),
        Method(
            "full",
            "all blocks: plain adapter training, the baseline of every sweep",
            'Hu et al., LoRA (arXiv 2106.09685); "full" in the code of the authors of IR-Tuning.',
            {"selection.policy.name": "all"},
        ),
    )
}
"""Name -> preset."""
