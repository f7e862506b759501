"""What this project asks of MLflow: a run for each training, a registered model, tags."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from denograd_engine.errors import ServiceError
from denograd_tasks.blocks import DenogradTracking, referred
from denograd_tasks.settings import without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "denograd.key"
SQLITE = "sqlite:///"
_CONNECTING = threading.Lock()
"""MLflow cannot create a database from two threads at once."""
_LENT = threading.RLock()
"""Its module-level functions have one server for all threads."""
PATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "75",
}
"""A server that is away is asked for a minute and a half; one that is silent for a minute gets no request twice."""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""A server is asked once, to see whether it is there."""


@contextmanager
def impatient() -> Iterator[None]:
    """Requests are neither waited for nor repeated, until the end of the block."""
    before = {name: os.environ.get(name) for name in IMPATIENT}
    os.environ.update(IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one that names the server, without its traceback."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise ServiceError(
            "the MLflow tracking server does not answer as it should",
            found=without_credentials(str(error).partition("\n")[0])[:400] or type(error).__name__,
            where=without_credentials(uri),
            remedy="check tracking.uri, see that the server is up, and run again: finished stages are reused",
        ) from error


def address_of(uri: str) -> str:
    """What MLflow is told: of `block:NAME` the block's URI, whose credentials go along with requests from now on."""
    block = referred(DenogradTracking, uri, "tracking.uri")
    if block is None:
        return uri
    from denograd_tasks.tracking_auth import remember

    remember(block)
    return block.uri


def client(uri: str) -> MlflowClient:
    """A client for this server; an SQLite store's folder is created first."""
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    with _CONNECTING:
        return _connect(address_of(uri))


@cache
def _connect(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith("sqlite:///"):
        _make_folder(Path(uri.removeprefix("sqlite:///")).parent, uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        with tracking_errors(uri):
            if uri.startswith(SQLITE):
                _create_whole(Path(uri.removeprefix(SQLITE)))
            made = mlflow.MlflowClient(uri)
            made.search_experiments(max_results=1)
    return made


@contextmanager
def fluent(uri: str) -> Iterator[None]:
    """MLflow's module-level functions talk to this server, until the end of the block."""
    import mlflow

    with _LENT:
        before, variable = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(address_of(uri))
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # sets the variable as well, which our defaults obey
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if variable is not None:
                os.environ["MLFLOW_TRACKING_URI"] = variable


def _create_whole(database: Path) -> None:
    """Create MLflow's tables beside the database and move them into place: a run killed meanwhile leaves none."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if database.exists():
        return
    for left in database.parent.glob(".new-*"):
        if not psutil.pid_exists(int(left.name.removeprefix(".new-"))):
            shutil.rmtree(left, ignore_errors=True)
    folder = database.parent / f".new-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    fresh = folder / database.name
    store = SqlAlchemyStore(f"{SQLITE}{fresh}", (database.parent / "artifacts").absolute().as_uri())
    store.engine.dispose()
    with suppress(FileExistsError):  # another process was first
        os.link(fresh, database)
    shutil.rmtree(folder, ignore_errors=True)


def _make_folder(folder: Path, uri: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            "the folder of the MLflow store cannot be made",
            found=error.strerror,
            where=uri,
            remedy="check tracking.uri",
        ) from error


def experiment_of(uri: str, dataset: str) -> str:
    """The id of the data set's experiment; with a local store, artefacts lie beside the database."""
    server = client(uri)
    with tracking_errors(uri):
        found = server.get_experiment_by_name(dataset)
        if found is not None:
            return str(found.experiment_id)
        location, address = None, address_of(uri)
        if address.startswith("sqlite:///"):
            location = (Path(address.removeprefix("sqlite:///")).parent / "artifacts" / dataset).absolute().as_uri()
        return str(server.create_experiment(dataset, artifact_location=location))


def run_exists(uri: str, run_id: str) -> bool:
    """Whether a finished run with this id is there."""
    from mlflow.exceptions import MlflowException

    try:
        run = client(uri).get_run(run_id)
    except MlflowException:
        return False
    return bool(run.info.lifecycle_stage == "active" and run.info.status == "FINISHED")


def end_leftovers(uri: str, experiment: str, key: str) -> int:
    """Mark runs of the same stage that a killed process left running. Returns how many."""
    server = client(uri)
    with tracking_errors(uri):
        left = server.search_runs(
            [experiment], f"attributes.status = 'RUNNING' and tags.`{KEY_TAG}` = '{key}'", max_results=50
        )
        for run in left:
            server.set_terminated(run.info.run_id, "KILLED")
    return len(left)


def log_model_folder(server: MlflowClient, experiment: str, run_id: str, folder: Path) -> str:
    """Log a local folder in MLflow's layout as the run's model; returns the model's id.

    To be called within `fluent`.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    known = server.get_run(run_id).data.params
    logged = server.create_logged_model(experiment, name="backbone", source_run_id=run_id, params=known)
    described = Model.load(str(folder))
    described.run_id, described.model_id, described.model_uuid = run_id, logged.model_id, logged.model_id
    described.artifact_path = logged.artifact_location
    described.save(str(folder / "MLmodel"))
    server.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    server.log_model_artifacts(logged.model_id, str(folder))
    server.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def register(server: MlflowClient, name: str, source: str, run_id: str, model_id: str) -> str:
    """Register a logged model as the next version of `name`; returns the version."""
    from mlflow.exceptions import MlflowException

    try:
        server.get_registered_model(name)
    except MlflowException:
        server.create_registered_model(name)
    return str(server.create_model_version(name, source, run_id=run_id, model_id=model_id).version)


def tag_run(uri: str, run_id: str, tags: Mapping[str, Any]) -> None:
    """Set tags of a run."""
    server = client(uri)
    with tracking_errors(uri):
        for name, value in tags.items():
            server.set_tag(run_id, name, str(value))


def metric_name(column: str) -> str:
    """MLflow allows letters, digits and a few signs in metric names, up to 250, and no names like folders'."""
    plain = "".join(sign if sign.isalnum() or sign in "_-. " else "_" for sign in column)[:200]
    return plain if plain.strip(".") else "_"
