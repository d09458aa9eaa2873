"""Labelled texts and text revisions: one file per dataset, and the prompt that a model reads.

A dataset is a ``DatasetConfig``: its options are its fields, and ``load()`` gives the splits. A new one is a file here,
an entry in the tuple below and a known-answer test; from outside the package it is ``data.name: my_pkg.mod:MyConfig``.
"""

from irtune.data.argrewrite import ArgRewriteConfig
from irtune.data.dataset import DataError, DatasetConfig, Example, LabelledDataset, Split
from irtune.data.file import FileConfig
from irtune.data.hub import HubConfig
from irtune.data.iterater import IteraterConfig
from irtune.data.synthetic import SyntheticConfig

DATASETS: dict[str, type[DatasetConfig]] = {
    cls.model_fields["name"].default: cls
    for cls in (SyntheticConfig, ArgRewriteConfig, IteraterConfig, FileConfig, HubConfig)
}

__all__ = ["DATASETS", "DataError", "DatasetConfig", "Example", "LabelledDataset", "Split"]
