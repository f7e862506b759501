"""A home folder and one Prefect API for the session; a publishing root on local disk and one on a real S3 server."""

import decimal
import os
import threading
import uuid
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import HASTY, ignored_leaks, make_series

QUIET = {
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
BUCKET = "bucket"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """The home folder of every test here."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENOGRAD_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in QUIET.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="session")
def prefect_api(home, prefect_server):
    """The session's Prefect API, with results kept below the home folder."""
    from prefect.settings import PREFECT_HOME, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

    with temporary_settings({PREFECT_HOME: home / "prefect", PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield


@pytest.fixture(scope="module", autouse=True)
def leaks_end_with_their_module():
    yield
    with ignored_leaks():
        pass


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3 server with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A fresh prefix on the S3 server, with the environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://{BUCKET}/{uuid.uuid4()}"


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    """A publishing root, on local disk and in an object store."""
    return str(tmp_path / "published") if request.param == "local" else request.getfixturevalue("s3")


@pytest.fixture
def racing():
    """Calls a function with 0, 1, 2, ... from as many threads at once, and returns what came back, in that order."""

    def race(call, threads):
        barrier, results = threading.Barrier(threads), [None] * threads

        def one(at):
            barrier.wait()
            try:
                results[at] = call(at)
            except Exception as error:
                results[at] = error

        workers = [threading.Thread(target=one, args=(at,)) for at in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return results

    return race


SECRET = "Nobody-may-read-this"


@pytest.fixture(scope="session")
def clean(prefect_api):
    """Runs every stage in one flow; returns the records and the state that each stage ended in, by name."""
    import torch
    from prefect import flow

    from denograd_tasks import check_fidelity, check_input, ingest, publish, quarantine, refine, report, train_backbone

    torch.set_num_threads(1)

    def clean(settings):
        states = {}

        def run(stage, *arguments):
            state = stage(*arguments, return_state=True)
            states[stage.name] = state.name
            return state.result()

        @flow(name="stages")
        def stages():
            snapshot = run(ingest, settings)
            checked = run(check_input, snapshot, settings)
            backbone = run(train_backbone, snapshot, settings)
            refined = run(refine, snapshot, backbone, settings)
            verdict = run(check_fidelity, snapshot, backbone, refined, settings)
            page = run(report, snapshot, checked, backbone, refined, verdict, settings)
            version = kept = None
            if verdict.passed:
                version = run(publish, snapshot, checked, backbone, refined, verdict, page, settings)
            else:
                kept = run(quarantine, snapshot, checked, backbone, refined, verdict, page, settings)
            return SimpleNamespace(
                settings=settings,
                snapshot=snapshot,
                checked=checked,
                backbone=backbone,
                refined=refined,
                verdict=verdict,
                page=page,
                version=version,
                kept=kept,
            )

        ran = stages()
        ran.states = states
        ran.reused = {name for name, state in states.items() if state == "Cached"}
        return ran

    return clean


def make_table(rows=300, seed=0):
    """A table with a learnable target, noise, gaps, and a column of every kind beside it."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3))
    y = x @ [1.0, -0.5, 0.25] + 0.2 * generator.normal(size=rows)
    gaps = generator.random(rows) < 0.05
    whole = np.round(1000 * x[:, 2]).astype(np.int32)
    return pa.table(
        {
            "a": x[:, 0],
            "b": pa.array(x[:, 1].astype(np.float32), mask=gaps),
            "whole": pa.array(whole, mask=gaps[::-1]),
            "site $<b>&": pa.array(generator.choice(["north", "south"], rows)).dictionary_encode(),
            "rooms": pa.array(generator.integers(1, 5, rows), pa.int8()),
            "flag": pa.array(generator.random(rows) < 0.5, mask=gaps),
            "money": pa.array([decimal.Decimal(int(cents)) / 100 for cents in whole], pa.decimal128(12, 2)),
            "when": pa.array(np.arange(rows) * 3600, pa.timestamp("s", "Europe/Vienna")),
            "note": [f"{SECRET} {row}" for row in range(rows)],
            "tags": [["x"] * (row % 3) for row in range(rows)],
            "y": y,
        }
    )


@pytest.fixture(scope="session")
def make_settings(home, tmp_path_factory):
    """Makes settings for a table written to a folder of its own, with changes; quick to train."""
    from denograd_tasks.settings import Settings

    def make_settings(table, folder=None, **changes):
        folder = folder or tmp_path_factory.mktemp("run")
        source = folder / "data.parquet"
        if not source.exists():
            pq.write_table(table, source)
        plain = {
            "dataset": "readings",
            "source": str(source),
            "columns": {"target": "y"},
            "backbone": {"training": {"epochs": 15, "batch_size": 32}},
            "refine": {"max_epochs": 15},
            "publish": {"root": str(folder / "published data")},
            "tracking": {"uri": f"sqlite:///{home}/mlflow/mlflow.db"},
        }
        gates = HASTY | changes.get("gates", {})
        return Settings.model_validate(plain | changes | {"gates": gates})

    return make_settings


@pytest.fixture(scope="session")
def table_run(clean, make_settings):
    """The small table, cleaned once for all tests, which must leave its folder as it is."""
    return clean(make_settings(make_table()))


@pytest.fixture(scope="session")
def series_run(clean, make_settings):
    """The small series, cleaned once for all tests, which must leave its folder as it is."""
    return clean(
        make_settings(
            make_series(),
            dataset="waves",
            columns={"target": "load"},
            series={"time": "time", "entity": "entity", "window": 8},
            backbone={"arguments": {"hidden": 16}, "training": {"epochs": 8, "batch_size": 64}},
        )
    )


@pytest.fixture(scope="session")
def audited(clean, make_settings, tmp_path_factory):
    """Four signed versions: two by steps, one by posteriors, one of other data; and a run that was refused.

    To be copied before anything is changed.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    folder = tmp_path_factory.mktemp("audited")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    generator = np.random.default_rng(0)
    signal, noise = generator.normal(size=200), generator.normal(size=(3, 200))
    table = pa.table(
        {
            "id": pa.array(1000 + generator.permutation(200)),
            "when": pa.array(np.arange(200) * 3600, pa.timestamp("s", "Europe/Vienna")),
            "site": generator.choice(["north", "south"], 200),
            **{name: signal + 0.3 * one for name, one in zip("aby", noise, strict=True)},
        }
    )
    later = table.slice(20).set_column(3, "a", pa.array(table["a"].to_numpy()[20:] + 0.01 * (np.arange(180) % 2)))
    (folder / "later").mkdir()
    pq.write_table(later, folder / "later" / "data.parquet")
    columns = {"target": "y", "ignored": "id"}
    noisy = columns | {"noise": dict.fromkeys("aby", 0.3)}
    quick = {"arguments": {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}}

    def run(**changes):
        root = {"root": str(folder / "published data"), "sign_with": str(folder / "key.pem")}
        return clean(make_settings(table, folder, **{"columns": columns, "publish": root} | changes))

    runs = [
        run(),
        run(refine={"max_epochs": 15, "tau": 0.2}),
        run(columns=noisy, backbone={}, refine=quick),
        run(source=str(folder / "later" / "data.parquet")),
    ]
    refused = run(refine={"max_epochs": 15, "tau": 0.2}, gates={"swd": {"max": 1e-9}})
    assert [one.version.number for one in runs] == [1, 2, 3, 4]
    assert refused.kept
    return SimpleNamespace(folder=folder, root=str(folder / "published data"), public=folder / "public.pem", runs=runs)
