"""A home folder and one Prefect API for the session; a publishing root on local disk and one on a real S3 server."""

import gc
import os
import threading
import uuid
import warnings
from contextlib import ExitStack, contextmanager

import pytest

QUIET = {
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
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
def prefect_api(home):
    """A Prefect API, and results kept below the home folder."""
    from prefect.settings import PREFECT_HOME, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        with ignored_leaks():
            stack.enter_context(prefect_test_harness(server_startup_timeout=120))
            stack.enter_context(temporary_settings({PREFECT_HOME: home / "prefect"}))
        yield
        with ignored_leaks():
            stack.close()


@pytest.fixture(scope="module", autouse=True)
def leaks_end_with_their_module():
    yield
    with ignored_leaks():
        pass


@contextmanager
def ignored_leaks():
    """Prefect leaves sockets of its clients to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


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
