"""The record of what an ablation claims, written before its first trial."""

import hashlib
import json
import time
from collections.abc import Mapping

from irtune.config.load import explicit
from irtune.files import write_whole
from irtune.redaction import redacted
from irtune.studies.preflight import Ablation

CLAIMS = "claims.json"


def write_claims(study: Ablation) -> Mapping[str, str]:
    """Write down what is claimed, once, before the first trial; returns when that was, and the hash of the study.

    Whoever goes on with a study finds what was written at first.
    """
    file = study.folder / CLAIMS
    if not file.is_file():
        tree = explicit(study.config)
        text = json.dumps(redacted({key: tree[key] for key in tree if key not in ("storage", "tracking", "tune")}))
        claims = [claim.model_dump(mode="json") for claim in study.config.ablation.claims]
        recorded = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        write_whole(file, json.dumps({"claims": claims, "recorded": recorded, "sha256": sha256}, indent=1) + "\n")
    found = json.loads(file.read_text(encoding="utf-8"))
    return {"recorded": str(found["recorded"]), "sha256": str(found["sha256"])}
