"""The model that MLflow loads and serves: an adapter, asked by tables of texts.

Models that were logged before name this module and its class in their script, so both keep their names.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from irtune.data.batches import ROWS_AT_ONCE
from irtune.training.record import ADAPTER


class ServedModel(PythonModel):
    """Labels and class probabilities of texts, equal to those of ``irtune predict`` for the same rows.

    Nothing is unpickled, and the base model comes from where the adapter's run had it. On a GPU where there is one;
    ``mlflow.pyfunc.load_model(…, model_config={"device": "cpu"})`` says otherwise.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the base model and put the adapter on it."""
        # Who only logs a model does not wait for PyTorch.
        from irtune.training.predictor import Predictor

        settings = context.model_config or {}
        self._predictor = Predictor(Path(context.artifacts[ADAPTER]), settings.get("device", "auto"))
        # A server answers several requests at once, and the model keeps the prompt's beginning between two calls.
        self._one_at_a_time = threading.Lock()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify rows, whose columns the signature names.

        Returns:
            The columns ``label`` and ``probability/CLASS`` of every class, in the order of the rows.
        """
        notes = self._predictor.notes
        texts = list(model_input[list(notes.columns)].itertuples(index=False, name=None))
        pools = [texts[start : start + ROWS_AT_ONCE] for start in range(0, len(texts), ROWS_AT_ONCE)]
        with self._one_at_a_time:
            found = [self._predictor.probabilities(pool)[0] for pool in pools]
        probabilities = np.concatenate([np.zeros((0, len(notes.labels))), *found])
        columns = {f"probability/{label}": probabilities[:, index] for index, label in enumerate(notes.labels)}
        labels = [notes.labels[index] for index in probabilities.argmax(axis=1)]
        return pd.DataFrame({"label": labels, **columns}, index=model_input.index)
