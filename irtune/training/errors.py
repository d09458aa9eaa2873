"""Errors of a model that cannot be made or used."""


class ModelError(ValueError):
    """The model cannot be made or used; the message names the setting and the alternatives."""
