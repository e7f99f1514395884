"""Librarian: the process that looks models up in MLflow's registry and fetches their files.

Nothing else here imports mlflow's registry client, so that a registry which is slow, locked or gone
is this process's trouble alone.
"""

import os

# Whoever imports a module of this package gets mlflow quiet: it reads these when it is imported.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
)
# An operator may know better. MLflow's own 7 retries of 120 s each would hide a dead registry.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
# A server that is busy may ask for hours of patience: what asks us again has pauses of its own.
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
