"""Shared by all tests: nothing reaches the network, nothing of the user's is touched but the model cache."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore")
# A cluster that somebody else started on this machine is not for tests.
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
