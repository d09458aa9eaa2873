"""What a sweep leaves behind: trials record what they measure, the driver sends it to MLflow.

What is recorded, ``irtune.training.record`` says; ``trace`` makes arrays of it. ``address`` and ``view`` say where and
how a person looks at a sweep; ``connection``, ``conversion``, ``mlflow_tracker`` and ``uploader`` run in the driver.
What it knows of its runs outlives it in ``run_record`` and ``heartbeat``, from which ``outbox`` and ``left_behind``
finish its work.
"""
