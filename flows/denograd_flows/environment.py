"""The environment of the command: one home folder, no telemetry, no noise."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from prefect.context import refresh_global_settings_context

from denograd_flows.leftovers import OWNER
from denograd_tasks.home import home

PATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "6"}
"""Has a server waited for that is away for a minute and then starts: two minutes in all."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""How long torch's threads spin for work before they sleep: a little.

For ever, training took 4 times as long beside one busy process; not at all, twice as long on an idle machine. So, it
takes 1.1 to 1.6 times the least of both on an idle machine, and 1.3 to 1.7 times beside a busy process. Only GNU's
OpenMP knows the count; the others do not spin.
"""


def prepare(verbose: bool) -> None:
    """Set what the user has not set.

    Prefect keeps its data below the home folder unless `PREFECT_HOME` says otherwise, and uses a server only if
    `PREFECT_API_URL` names one.
    """
    quiet = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_LOG_PRINTS": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "TQDM_DISABLE": "1",
    }
    defaults = {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        OWNER: str(os.getpid()),
        **PATIENT,
        **({} if verbose else quiet),
    }
    if "OMP_WAIT_POLICY" not in os.environ:
        defaults |= WAITING
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ[OWNER] = str(os.getpid())
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    refresh_global_settings_context()  # Prefect read the environment when it was imported
    if not verbose:
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.CRITICAL)
