"""Shared by all tests: nothing reaches the network, nothing of the user's is touched but the model cache."""

import os

import hypothesis

# How long an example takes says what else the machine does.
hypothesis.settings.register_profile("irtune", deadline=None)
hypothesis.settings.load_profile("irtune")

os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait by counting take the cores from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("PYTHONWARNINGS", "ignore")
# A cluster that somebody else started on this machine is not for tests.
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
# Output that goes to no terminal has a width of its own, whatever that of who tests is.
os.environ.pop("COLUMNS", None)
