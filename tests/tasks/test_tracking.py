"""What MLflow is told, and what becomes of it when MLflow is not as expected."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest
from urllib3.util import Retry

from denograd_engine.errors import ServiceError
from denograd_tasks.stages.train_backbone import train_backbone
from denograd_tasks.store import Store
from denograd_tasks.tracking import (
    KEY_TAG,
    PATIENT,
    client,
    end_leftovers,
    experiment_of,
    fluent,
    register,
    run_exists,
    tag_run,
    tracking_errors,
)


@pytest.fixture
def uri(home):
    return f"sqlite:///{home}/mlflow/mlflow.db"


def test_the_run_has_every_parameter(table_run):
    server = client(table_run.settings.tracking.uri)
    run = server.get_run(table_run.backbone.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "kind": "mlp",
        "seed": "0",
        "device": "auto",
        "epochs": "15",
        "patience": "10",
        "batch_size": "32",
        "learning_rate": "0.002",
        "weight_decay": "0.01",
        "holdout": "0.2",
    }


def test_the_run_of_a_series_has_its_windows_and_arguments(series_run):
    server = client(series_run.settings.tracking.uri)
    params = server.get_run(series_run.backbone.run_id).data.params
    assert params["kind"] == "lstm"
    assert params["arguments.hidden"] == "16"
    assert {name: value for name, value in params.items() if name.startswith("series.")} == {
        "series.time": "time",
        "series.entity": "('entity',)",
        "series.window": "8",
        "series.future": "1",
        "series.stride": "1",
        "series.targets_as_inputs": "True",
        "series.flatten": "False",
    }


def test_the_run_has_the_losses_of_every_epoch(table_run):
    server = client(table_run.settings.tracking.uri)
    history = {
        name: [(metric.step, metric.value) for metric in server.get_metric_history(table_run.backbone.run_id, name)]
        for name in ("train_loss", "holdout_loss")
    }
    assert history["train_loss"] == [(epoch, loss) for epoch, loss, _ in table_run.backbone.history]
    assert history["holdout_loss"] == [(epoch, loss) for epoch, _, loss in table_run.backbone.history]
    metrics = server.get_run(table_run.backbone.run_id).data.metrics
    assert metrics["skill/y"] == table_run.backbone.skill["y"]
    assert metrics["residual_scale"] == table_run.backbone.residual_scale


def test_the_run_names_snapshot_model_version_and_manifest(table_run):
    server = client(table_run.settings.tracking.uri)
    run = server.get_run(table_run.backbone.run_id)
    ours = {name: value for name, value in run.data.tags.items() if name.startswith("denograd.") and name != KEY_TAG}
    assert ours.pop("denograd.flow_run")
    ours.pop("denograd.champion", None)  # where others trained under this name before
    assert ours == {
        "denograd.snapshot": table_run.snapshot.digest,
        "denograd.dataset": "readings",
        "denograd.model": table_run.backbone.digest,
        "denograd.version": "readings@1",
        "denograd.strength": "1.0",
        "denograd.manifest": table_run.version.digest,
    }
    assert run.info.run_name == f"readings-{table_run.snapshot.digest[:8]}"
    assert server.get_experiment(run.info.experiment_id).name == "readings"


def test_the_model_is_registered_as_champion_with_a_signature(table_run):
    server = client(table_run.settings.tracking.uri)
    every = {int(one.version): one.run_id for one in server.search_model_versions("name='readings'")}
    number = int(table_run.backbone.model_uri.rpartition("/")[2])
    assert every[number] == table_run.backbone.run_id
    champion = server.get_model_version_by_alias("readings", "champion")
    assert int(champion.version) >= number  # of this run, or of a later one of the same registry
    with fluent(table_run.settings.tracking.uri):
        signature = mlflow.models.get_model_info(table_run.backbone.model_uri).signature
    assert signature.inputs.inputs[0].shape[0] == signature.outputs.inputs[0].shape[0] == -1


def test_the_scaling_is_kept_beside_the_model(table_run):
    with fluent(table_run.settings.tracking.uri):
        text = mlflow.artifacts.load_text(f"runs:/{table_run.backbone.run_id}/encoder.json")
    assert text.encode() == Store(table_run.snapshot.root).read(table_run.backbone.file("encoder.json").path)


def test_artifacts_of_a_local_store_lie_beside_its_database(table_run, home):
    run = client(table_run.settings.tracking.uri).get_run(table_run.backbone.run_id)
    assert run.info.artifact_uri.startswith((home / "mlflow" / "artifacts" / "readings").as_uri())
    assert list((home / "mlflow" / "artifacts" / "readings").rglob("model.pt2"))


def test_a_folder_with_spaces_and_signs_holds_a_store(tmp_path):
    uri = f"sqlite:///{tmp_path}/Zürich 温度/m.db"
    server = client(uri)
    run = server.create_run(experiment_of(uri, "set"))
    server.log_text(run.info.run_id, "text", "note.txt")
    server.set_terminated(run.info.run_id, "FINISHED")
    assert run_exists(uri, run.info.run_id)
    (found,) = (tmp_path / "Zürich 温度").rglob("note.txt")
    assert found.read_text() == "text"


def test_threads_that_open_a_new_store_at_once_find_it_whole(tmp_path, racing):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    found = racing(lambda at: [one.name for one in client(uri).search_experiments()], 6)
    assert found == [["Default"]] * 6
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"mlflow.db"}


def test_a_database_that_a_killed_process_left_half_made_is_removed(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f".new-{int(gone.stdout)}"
    left.mkdir()
    (left / "mlflow.db").write_bytes(b"half")
    client(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}


def test_an_experiment_is_made_once(uri):
    assert experiment_of(uri, "one-of-many") == experiment_of(uri, "one-of-many")
    assert experiment_of(uri, "another") != experiment_of(uri, "one-of-many")


def test_registering_again_makes_the_next_version(uri, table_run):
    server = client(uri)
    model = server.get_model_version_by_alias("readings", "champion")
    with fluent(uri):
        made = [register(server, "moved", model.source, model.run_id, model.model_id) for _ in range(2)]
    assert made == ["1", "2"]
    assert server.get_registered_model("moved").aliases == {}


def test_only_finished_runs_that_are_not_deleted_exist(uri):
    server = client(uri)
    run_id = server.create_run(experiment_of(uri, "existing")).info.run_id
    assert not run_exists(uri, run_id)
    server.set_terminated(run_id, "FAILED")
    assert not run_exists(uri, run_id)
    server.set_terminated(run_id, "FINISHED")
    assert run_exists(uri, run_id)
    server.delete_run(run_id)
    assert not run_exists(uri, run_id)
    assert not run_exists(uri, "0" * 32)


def test_runs_that_a_killed_process_left_are_ended(uri):
    server, experiment = client(uri), experiment_of(uri, "leftovers")
    left = [server.create_run(experiment, tags={KEY_TAG: "mine"}).info.run_id for _ in range(2)]
    others = server.create_run(experiment, tags={KEY_TAG: "other"}).info.run_id
    done = server.create_run(experiment, tags={KEY_TAG: "mine"}).info.run_id
    server.set_terminated(done, "FINISHED")
    assert end_leftovers(uri, experiment, "mine") == 2
    assert [server.get_run(run_id).info.status for run_id in left] == ["KILLED", "KILLED"]
    assert server.get_run(others).info.status == "RUNNING"
    assert server.get_run(done).info.status == "FINISHED"
    assert end_leftovers(uri, experiment, "mine") == 0


def test_tags_are_text(uri):
    server = client(uri)
    run_id = server.create_run(experiment_of(uri, "tags")).info.run_id
    tag_run(uri, run_id, {"number": 3, "none": None})
    assert {name: server.get_run(run_id).data.tags[name] for name in ("number", "none")} == {
        "number": "3",
        "none": "None",
    }


def test_an_unknown_run_cannot_be_tagged(uri):
    with pytest.raises(ServiceError, match="does not answer as it should") as caught:
        tag_run(uri, "0" * 32, {"a": 1})
    assert caught.value.where == uri


def test_a_training_that_fails_is_marked_in_mlflow(table_run, uri):
    settings = table_run.settings.model_copy(update={"dataset": "failing"})
    broken = settings.backbone.model_copy(update={"arguments": {"depth": 3}})
    with pytest.raises(Exception, match="does not take these arguments"):
        train_backbone.fn(table_run.snapshot, settings.model_copy(update={"backbone": broken}))
    runs = client(uri).search_runs([experiment_of(uri, "failing")])
    assert [run.info.status for run in runs] == ["FAILED"]


@contextmanager
def answering(status):
    """An HTTP server that answers everything with this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"no")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_that_is_away_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServiceError, match="MLflow tracking server does not answer") as caught:
        client(address)
    assert caught.value.where == address
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_server_that_is_no_tracking_server_is_named(status, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status) as address, pytest.raises(ServiceError) as caught:
        client(address)
    assert caught.value.where == address
    assert str(status) in caught.value.found


def test_a_server_that_is_away_for_a_minute_is_waited_for_but_not_for_long(monkeypatch, tmp_path):
    for name in PATIENT:
        monkeypatch.delenv(name, raising=False)
    client(f"sqlite:///{tmp_path}/m.db")
    from mlflow.environment_variables import (
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
    )

    asked = Retry(total=MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), backoff_factor=MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get())
    waits = []
    for _ in range(asked.total):
        asked = asked.increment("GET", "/", error=ConnectionError())
        waits.append(asked.get_backoff_time())
    assert 75 < sum(waits) < 120
    assert 60 < MLFLOW_HTTP_REQUEST_TIMEOUT.get() < 120


@pytest.mark.parametrize("wrong", ["nosuch://x", "sqlite:////dev/null/x/m.db", "{tmp}/mlruns"])
def test_an_address_of_no_store_is_named(wrong, tmp_path):
    address = wrong.format(tmp=tmp_path)
    with pytest.raises(ServiceError) as caught:
        client(address)
    assert caught.value.where == address
    assert "tracking.uri" in caught.value.remedy


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "m.db").write_bytes(b"no database " * 1000)
    with pytest.raises(ServiceError) as caught:
        client(f"sqlite:///{tmp_path}/m.db")
    assert "file is not a database" in caught.value.found


def test_other_errors_pass():
    with pytest.raises(KeyError), tracking_errors("uri"):
        raise KeyError("x")


def test_mlflow_is_lent_and_given_back(uri, monkeypatch):
    before = mlflow.get_tracking_uri()
    with fluent(uri):
        assert mlflow.get_tracking_uri() == uri
    assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
    with pytest.raises(KeyError), fluent(uri):
        raise KeyError
    assert os.environ["MLFLOW_TRACKING_URI"] == mlflow.get_tracking_uri() == before


def test_asking_a_store_leaves_the_users_own_alone(uri, tmp_path):
    before = mlflow.get_tracking_uri()
    client(f"sqlite:///{tmp_path}/m.db")
    assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
