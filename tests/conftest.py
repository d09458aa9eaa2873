"""Shared by all tests: nothing reaches the network, nothing of the user's is touched but the model cache."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore")
# By default Ray's workers run at niceness 15: anything else that runs on the machine then keeps a fixture waiting for
# them for minutes (128 s instead of 42 s beside four busy processes, 10 s beside none).
os.environ.setdefault("RAY_worker_niceness", "0")
# A cluster that somebody else started on this machine is not for tests.
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
