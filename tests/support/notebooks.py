"""A notebook as far as a live plot needs one, where IPython is not installed."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest


def in_notebook(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Be in a notebook from here on; returns its places, each with what it showed one after the other."""
    places: list[list[Any]] = []

    def display(what: Any, *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        place = [what]
        places.append(place)
        return SimpleNamespace(update=lambda image: place.append(image.data))

    shown = SimpleNamespace(display=display, Image=lambda data: SimpleNamespace(data=data))
    shell = SimpleNamespace(kernel=object(), config={})
    # What matplotlib asks for.
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=shown, version_info=(9, 0, 0))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return places
