"""What a sweep leaves behind: trials write spools, the driver ships them to MLflow.

``spool`` and ``trace`` are what a training process needs and load no MLflow; ``address`` and ``view`` say where and how
a person looks at a sweep; ``connection``, ``conversion``, ``mlflow_tracker`` and ``uploader`` run in the driver.
What it knows of its runs outlives it in ``run_record`` and ``heartbeat``, from which ``outbox`` and ``left_behind``
finish its work.
"""
