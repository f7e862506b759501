"""Blocks: what Prefect expects of them, what a configuration that names them does, and where their secrets are not."""

import base64
import inspect
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError
from support import ignored_leaks, make_series

import denograd_tasks
from denograd_engine.errors import ConfigError, ServiceError, StoreError
from denograd_tasks import DenogradStore, DenogradTracking
from denograd_tasks.settings import load_settings
from denograd_tasks.store import open_store
from denograd_tasks.tracking import address_of, client

BLOCKS = (DenogradStore, DenogradTracking)
SECRET = "Nobody-may-read-this"


@pytest.mark.parametrize("block", BLOCKS)
class TestTheStandard(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request):
        return request.param

    def test_has_a_valid_image(self, block):
        try:
            super().test_has_a_valid_image(block)
        except URLError:
            pytest.skip(f"no network to fetch {block._logo_url}")


def test_registering_the_module_finds_them():
    found = {one for _, one in inspect.getmembers(denograd_tasks) if Block.is_block_class(one)}
    assert found == set(BLOCKS)


@pytest.mark.parametrize(
    "given",
    [
        {"token": SECRET, "username": "ada", "password": SECRET},
        {"username": "ada"},
        {"password": SECRET},
    ],
)
def test_credentials_are_of_one_kind(given):
    with pytest.raises(ValidationError, match="either a token, or a username with its password"):
        DenogradTracking(uri="http://mlflow.example", **given)


def test_a_configuration_keeps_the_reference(tmp_path):
    (tmp_path / "denograd.yaml").write_text(
        "{dataset: a, source: a.csv, columns: {target: y}, publish: {root: 'block:x'}, tracking: {uri: 'block:y'}}"
    )
    settings = load_settings(tmp_path / "denograd.yaml")
    assert (settings.publish.root, settings.tracking.uri) == ("block:x", "block:y")
    assert settings.source == str(tmp_path / "a.csv")


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize(("use", "where"), [(open_store, "publish.root"), (client, "tracking.uri")])
def test_a_block_that_is_not_there_is_named(use, where):
    with pytest.raises(ConfigError, match=where) as caught:
        use("block:nobody")
    assert caught.value.found == "block:nobody"
    assert "prefect block register -m denograd_tasks" in caught.value.remedy


def test_a_prefect_that_is_away_is_named():
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(ServiceError) as caught:
        open_store("block:anything")
    assert "PREFECT_API_URL" in caught.value.remedy


@pytest.mark.usefixtures("prefect_api")
def test_a_store_has_the_credentials_of_its_block(s3, monkeypatch):
    names = {"AWS_ENDPOINT_URL": "aws_endpoint", "AWS_ALLOW_HTTP": None}
    options = {}
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        options[names.get(name, name.lower())] = os.environ[name]
        monkeypatch.delenv(name)
    options.pop(None)
    with ignored_leaks():
        DenogradStore(root=s3, options=options, allow_http=True).save("bucket")
        store = open_store("block:bucket")
    assert store.root == s3
    assert store.create("a/b", b"content")
    assert store.read("a/b") == b"content"


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("name", ["aws_no_such_option", "aws_allow_http"])
def test_an_option_that_no_bucket_has_is_refused_without_its_value(name):
    with ignored_leaks():
        DenogradStore(root="s3://bucket", options={name: SECRET}).save(name.replace("_", "-"))
        with pytest.raises(StoreError, match="publishing root cannot be opened") as caught:
            open_store(f"block:{name.replace('_', '-')}")
    assert SECRET not in str(caught.value)


@contextmanager
def listening():
    """A server that knows no experiments, and remembers how it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            asked.append(self.headers.get("Authorization"))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ({"token": SECRET}, f"Bearer {SECRET}"),
        ({"username": "ada", "password": SECRET}, f"Basic {base64.b64encode(f'ada:{SECRET}'.encode()).decode()}"),
        ({}, None),
    ],
    ids=["token", "password", "none"],
)
def test_credentials_go_to_their_own_server_alone(credentials, header, request, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_AUTH", raising=False)
    name = request.node.callspec.id
    with listening() as (ours, asked), listening() as (other, asked_of_other), ignored_leaks():
        DenogradTracking(uri=ours, **credentials).save(name)
        client(f"block:{name}").search_experiments()
        client(other).search_experiments()
    assert set(asked) == {header}
    assert set(asked_of_other) == {None}


@pytest.mark.usefixtures("prefect_api")
def test_another_way_of_the_environment_to_get_credentials_is_left_alone(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    with ignored_leaks():
        DenogradTracking(uri="http://127.0.0.1:9", token=SECRET).save("conflict")
        with pytest.raises(ConfigError) as caught:
            address_of("block:conflict")
    assert caught.value.where == "MLFLOW_TRACKING_AUTH"
    assert os.environ["MLFLOW_TRACKING_AUTH"] == "kubernetes"


def test_a_run_writes_the_references_down_and_no_secret(
    clean, make_settings, home, tmp_path, capfd, caplog, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_AUTH", raising=False)
    root, uri = tmp_path / "published", f"sqlite:///{tmp_path}/mlflow.db"
    with ignored_leaks():
        DenogradStore(root=str(root), options={"aws_secret_access_key": SECRET}).save("run", overwrite=True)
        DenogradTracking(uri=uri, token=SECRET).save("run", overwrite=True)
    settings = make_settings(
        make_series(),
        folder=tmp_path,
        dataset="by-block",
        columns={"target": "load"},
        series={"time": "time", "entity": "entity", "window": 8},
        backbone={"kind": "mlp", "training": {"epochs": 4}},
        gates={"skill": {"min": None}},
        publish={"root": "block:run"},
        tracking={"uri": "block:run"},
    )
    first = clean(settings)
    assert first.version.root == first.snapshot.root == first.backbone.tracking_uri == "block:run"
    assert (root / "by-block" / "versions" / "00000001.json").is_file()
    assert client(uri).get_run(first.backbone.run_id).info.status == "FINISHED"
    assert clean(settings).reused >= {"ingest", "train_backbone", "refine"}

    said = capfd.readouterr()
    assert SECRET not in said.out + said.err + caplog.text
    kept = [path for folder in (tmp_path, home) for path in Path(folder).rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]
