"""A configuration's names: one that tells people what is special about it, and a hash."""

import hashlib
import json

from irtune.analysis.trials import BASELINE
from irtune.config.load import dotted_keys
from irtune.config.schema import ExperimentConfig


def trial_name(config: ExperimentConfig) -> str:
    """A telling name, such as ``top_k k=17 refresh=20 max``."""
    policy = config.selection.policy
    fields = type(policy).model_fields
    # Without a method its own defaults are what is usual.
    knobs = policy.model_dump(mode="json", exclude={"name"}, exclude_defaults=config.method is None)
    usual = ExperimentConfig(method=config.method).selection.policy.model_dump(mode="json") if config.method else {}
    shown = [
        f"{key}={value}"
        for key, value in knobs.items()
        if fields[key].is_required() or key not in usual or value != usual[key]
    ]
    interval = config.selection.reselect_every
    parts = [config.strategy, *shown, f"refresh={interval}" if interval else "once"]
    if policy.uses_importance:
        parts.append(str(getattr(config.importance, "within_block", config.importance.name)))
    return " ".join(parts) if config.strategy != BASELINE else BASELINE


def config_hash(config: ExperimentConfig) -> str:
    """SHA-256 over all settings but names and where things lie, 12 hexadecimal digits."""
    settings = {
        key: value
        for key, value in dotted_keys(config).items()
        if key.split(".")[0] not in ("name", "storage", "tracking")
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
