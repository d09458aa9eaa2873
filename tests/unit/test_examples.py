"""The examples in the docstrings of public classes run, and say what comes out."""

import doctest
import importlib
import inspect

import pytest

import irtune
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow
from irtune.data import LabelledDataset

PUBLIC = [thing for name in irtune.__all__ if inspect.isclass(thing := getattr(irtune, name))]
PUBLIC += [LabelledDataset, Metric, TrialRow]


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_the_example_of_a_public_class_runs(cls):
    names = vars(importlib.import_module(cls.__module__)).copy()
    (found,) = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, globs=names)
    assert found.examples, f"{cls.__name__} has no example in its docstring"
    told = []
    doctest.DocTestRunner().run(found, out=told.append)
    assert told == []
