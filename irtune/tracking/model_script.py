"""The script that MLflow keeps with a logged model, and runs where it loads one; it needs irtune to be there."""

from mlflow.models import set_model

from irtune.tracking.served_model import ServedModel

set_model(ServedModel())
