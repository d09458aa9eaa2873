"""Names in a trial's folder beside its records, for whoever looks at it without torch."""

CHECKPOINTS = "checkpoints"
"""The folder of what a trial goes on from; it is of no use once the trial is over."""

PREDICTIONS = "predictions.npz"
"""Class probabilities of validation and test, with ids and labels."""

BEST_WEIGHTS = "best"
"""The folder of the best weights, a file for the step that they are of; a finished trial's adapter is made of them."""
