"""First tokens that all examples share: the instruction, and the template up to the texts."""

import numpy as np

from irtune.data.encode import EncodedDataset


def common_tokens(data: EncodedDataset) -> np.ndarray:
    """Token ids ``(P,)`` that every example of every split begins with, and after which each has one of its own."""
    splits = [split for split in data.splits.values() if len(split)]
    first = splits[0].token_ids[: min(int(split.lengths.min()) for split in splits) - 1]
    for place, token in enumerate(first):
        if any((split.token_ids[split.offsets[:-1] + place] != token).any() for split in splits):
            return np.array(first[:place])
    return np.array(first)
