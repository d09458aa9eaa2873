"""What a sweep leaves behind: trials write spools, the driver ships them to MLflow.

``spool`` and ``trace`` are what a training process needs and load no MLflow; ``address`` and ``view`` say where and how
a person looks at a sweep; ``connection``, ``conversion``, ``mlflow_tracker`` and ``shipper`` run in the driver. What it
knows of its runs outlives it in ``ledger`` and ``heartbeat``, from which ``sync`` and ``janitor`` finish its work.
"""
