"""Events say what a run did, follow the schemas, and cost a run nothing."""

import json
import socket
import time
from contextlib import nullcontext
from uuid import UUID

import pyarrow as pa
import pytest
from lineage_receiver import Receiver
from lineage_schema import problems
from prefect.types.names import validate_valid_asset_key

from denograd_engine.errors import ConfigError, DataError
from denograd_tasks.keys import digest_of
from denograd_tasks.lineage_events.datasets import column_lineage, result_of, source_of
from denograd_tasks.lineage_events.events import particulars
from denograd_tasks.lineage_events.naming import Place, models_place, place_of, published_place, run_id
from denograd_tasks.lineage_events.recording import Recorder, recorded
from denograd_tasks.lineage_events.sending import PATIENCE, events_file
from denograd_tasks.progress import listening
from denograd_tasks.settings import parse_settings
from denograd_tasks.store import Store
from denograd_tasks.tables import null_counts, read_table
from denograd_tasks.versions import resolve

SOURCE = Place("file", "/data/source.parquet")


class Heard:
    def __init__(self):
        self.warnings = []

    def warned(self, text):
        self.warnings.append(text)


@pytest.fixture
def settings(make_settings, tmp_path, monkeypatch, prefect_api):
    """Makes settings of a data set that nothing was told of yet."""
    monkeypatch.setenv("DENOGRAD_HOME", str(tmp_path / "home"))
    for name in ("URL", "API_KEY"):
        monkeypatch.delenv(f"OPENLINEAGE_{name}", raising=False)

    def make(**lineage):
        return make_settings(None, tmp_path, source=str(tmp_path / "given.csv"), lineage=lineage)

    (tmp_path / "data.parquet").touch()
    return make


def told(dataset="readings"):
    return [json.loads(line) for line in events_file(dataset).read_text().splitlines()]


def body_of(audited, number):
    return resolve(Store(audited.root), f"readings@{number}").content


@pytest.mark.parametrize(
    ("address", "place", "asset"),
    [
        ("/data/a.csv", Place("file", "/data/a.csv"), "file:///data/a.csv"),
        ("file:///data/a.csv", Place("file", "/data/a.csv"), "file:///data/a.csv"),
        ("s3://bucket/a/b", Place("s3://bucket", "a/b"), "s3://bucket/a/b"),
        ("gs://bucket", Place("gs://bucket", "/"), "gs://bucket//"),
        ("https://user:secret@host:1/x", Place("https://host:1", "x"), "https://host:1/x"),
    ],
    ids=["path", "file", "bucket", "root", "credentials"],
)
def test_names_follow_the_convention(address, place, asset):
    assert place_of(address) == place
    assert place.asset == validate_valid_asset_key(asset)


@pytest.mark.parametrize("name", ["a b [c] #1 & 50%.csv", "x" * 600], ids=["signs", "long"])
def test_an_asset_has_a_key_of_its_own_whatever_its_name(name):
    keys = {place_of(f"/data/{one}").asset for one in (name, name.replace(" ", "_"), name + "x")}
    assert len(keys) == len({name, name.replace(" ", "_"), name + "x"})
    for key in keys:
        validate_valid_asset_key(key)


def test_everything_of_a_data_set_is_below_its_root():
    assert published_place("s3://b/root", "readings") == Place("s3://b", "root/readings")
    assert models_place("s3://b/root", "readings") == Place("s3://b", "root/readings/models")


def test_a_run_that_is_tried_again_is_another():
    flow = "786dc837-9bd0-43b3-ba04-02c84295b318"
    assert run_id(flow, 1) == run_id(flow, 1) != run_id(flow, 2)
    assert UUID(run_id(flow, 1)) != UUID(flow)


def test_a_version_is_described_as_its_manifest_says(audited):
    body, nulls = body_of(audited, 2), {"a": 3}
    result = result_of(body, SOURCE, Place("file", "/root/readings"), "2", nulls, "OVERWRITE")
    assert (result.namespace, result.name) == ("file", "/root/readings")
    facets = result.facets
    assert [(one.name, one.type) for one in facets["schema"].fields] == [
        (one["name"], one["type"]) for one in body["schema"]
    ]
    assert facets["version"].datasetVersion == "2"
    assert facets["lifecycleStateChange"].lifecycleStateChange.value == "OVERWRITE"
    assert facets["dataQualityMetrics"].rowCount == 200
    assert facets["dataQualityMetrics"].columnMetrics["a"].nullCount == 3
    gates = facets["dataQualityAssertions"].assertions
    assert [(one.assertion, one.success) for one in gates] == [(one["name"], one["passed"]) for one in body["gates"]]
    assert result.outputFacets["outputStatistics"].size == body["files"][0]["bytes"]
    source = source_of(body, SOURCE, nulls)
    assert source.facets["version"].datasetVersion == body["source"]["snapshot"]
    assert source.inputFacets["dataQualityAssertions"].assertions[0].assertion == "rows"
    known = particulars(body, "digest")
    assert (known.modelDigest, known.configuration) == (body["model"]["digest"], digest_of(body["settings"]))


def read_by(lineage, name):
    return {one.field for one in lineage.fields[name].inputFields}


def test_refined_columns_come_from_what_the_model_reads_and_others_from_themselves(audited):
    body = body_of(audited, 1)
    lineage = column_lineage(body, SOURCE)
    for name in ("a", "b", "y"):
        assert read_by(lineage, name) == {"a", "b", "y", "site", "when"}
        assert lineage.fields[name].inputFields[0].field == name
        assert "rule denograd" in lineage.fields[name].transformationDescription
        assert body["model"]["digest"] in lineage.fields[name].transformationDescription
    for name in ("id", "site", "when"):
        (only,) = lineage.fields[name].inputFields
        assert (only.field, only.transformations[0].subtype) == (name, "IDENTITY")
    assert lineage.dataset == []


def test_features_refined_by_posteriors_do_not_come_from_the_target(audited):
    lineage = column_lineage(body_of(audited, 3), SOURCE)
    assert read_by(lineage, "a") == {"a", "b", "site", "when"}
    assert read_by(lineage, "y") == {"a", "b", "y", "site", "when"}


def test_targets_that_stay_come_from_themselves(audited):
    body = body_of(audited, 1)
    refine = body["settings"]["refine"] | {"refine_targets": False}
    stays = column_lineage(body | {"settings": body["settings"] | {"refine": refine}}, SOURCE)
    assert read_by(stays, "y") == {"y"}
    assert len(read_by(stays, "a")) == 5


def test_of_a_series_time_and_entity_are_said_of_the_whole(series_run):
    body = resolve(Store(series_run.settings.publish.root), "waves").content
    lineage = column_lineage(body, SOURCE)
    assert {(one.field, one.transformations[0].subtype) for one in lineage.dataset} == {
        ("time", "WINDOW"),
        ("entity", "WINDOW"),
    }
    assert read_by(lineage, "wave") >= {"wave", "load"}


def test_a_very_wide_table_has_a_short_lineage(audited):
    body = body_of(audited, 1)
    one = next(column for column in body["schema"] if column["name"] == "a")
    wide = body | {"schema": [one | {"name": f"c{at}"} for at in range(2000)]}
    lineage = column_lineage(wide, SOURCE)
    assert read_by(lineage, "c7") == {"c7"}
    assert {each.field for each in lineage.dataset} == {f"c{at}" for at in range(2000)}


def test_missing_cells_are_counted_from_the_footers(audited, table_run):
    for run in (audited.runs[0], table_run):
        store, path = Store(run.settings.publish.root), run.snapshot.files[0].path
        table = read_table(store, path)
        flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
        assert null_counts(store, [path]) == {name: table[name].null_count for name in flat}
        assert null_counts(store, [path, path]) == {name: 2 * table[name].null_count for name in flat}


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (None, "COMPLETE", None),
        (DataError("there are too few rows", found="3"), "FAIL", "there are too few rows\n  found: 3"),
        (ValueError("the cell holds 17.25"), "FAIL", "unexpected ValueError"),
        (KeyboardInterrupt(), "ABORT", "KeyboardInterrupt"),
    ],
    ids=["done", "failed", "unexpected", "interrupted"],
)
def test_a_run_ends_as_it_ended_in_the_file_and_at_the_receiver(settings, error, state, message):
    with Receiver() as receiver:
        with nullcontext() if error is None else pytest.raises(type(error)):  # noqa: SIM117
            with recorded(settings(url=f"{receiver.url}/", namespace="ours")):
                if error is not None:
                    raise error
        started, ended = told()
        assert [one for _, one in receiver.received] == [started, ended]
    assert {path for path, _ in receiver.received} == {"/api/v1/lineage"}
    assert (started["eventType"], ended["eventType"]) == ("START", state)
    assert started["run"]["runId"] == ended["run"]["runId"]
    assert (ended["job"]["namespace"], ended["job"]["name"]) == ("ours", "clean.readings")
    assert ended["inputs"][0]["name"].endswith("/given.csv")
    assert ended["run"]["facets"].get("errorMessage", {}).get("message") == message
    assert problems(started) == problems(ended) == []


def test_what_does_not_follow_the_schemas_is_found(settings):
    with recorded(settings()):
        pass
    event = told()[0]
    source = event["inputs"][0]
    for change in (
        {"eventTime": "2026-01-01"},
        {"eventType": "BEGIN"},
        {"run": {"runId": "1"}},
        {"surplus": 1},
        {"inputs": [{"namespace": "file"}]},
        {"inputs": [source | {"facets": {"schema": {"fields": []}}}]},
        {"job": event["job"] | {"facets": {"jobType": event["job"]["facets"]["jobType"] | {"jobType": 3}}}},
    ):
        assert problems(event | change), change


def test_a_killed_run_is_ended_by_the_next(settings):
    Recorder(settings()).started()  # and killed
    first = told()[0]
    with recorded(settings()):
        pass
    states = [(one["eventType"], one["run"]["runId"] == first["run"]["runId"]) for one in told()]
    assert states == [("START", True), ("ABORT", True), ("START", False), ("COMPLETE", False)]
    assert problems(told()[1]) == []
    with recorded(settings()):
        pass
    assert len(told()) == 6


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize("away", ["closed", "hangs", "refuses"])
def test_a_receiver_that_is_away_is_one_warning_and_no_failure(settings, away, monkeypatch):
    heard = Heard()
    with Receiver(status=503, hangs=away == "hangs") as receiver, listening(heard):
        url = closed_port() if away == "closed" else receiver.url
        monkeypatch.setenv("OPENLINEAGE_URL", url.replace("://", "://user:secret@"))
        since = time.monotonic()
        with recorded(settings()):
            began = time.monotonic() - since
        took = time.monotonic() - since
    assert began < 1.0
    assert took < PATIENCE + 1.5
    (warning,) = heard.warnings
    assert url in warning
    assert "secret" not in warning
    assert [one["eventType"] for one in told()] == ["START", "COMPLETE"]


def test_the_environment_names_receiver_and_key(settings, monkeypatch):
    with Receiver() as receiver:
        monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
        monkeypatch.setenv("OPENLINEAGE_API_KEY", "Nobody-may-read-this")
        with recorded(settings()):
            pass
    assert {one["Authorization"] for one in receiver.headers} == {"Bearer Nobody-may-read-this"}
    assert "Nobody-may-read-this" not in events_file("readings").read_text()


def test_the_key_may_be_a_prefect_secret(settings):
    from prefect.blocks.system import Secret

    Secret(value="Nobody-may-read-this").save("lineage-key", overwrite=True)
    heard = Heard()
    with Receiver() as receiver, listening(heard):
        with recorded(settings(url=receiver.url, api_key="block:lineage-key")):
            pass
        with recorded(settings(url=receiver.url, api_key="block:no-such-key")):
            pass
    assert [one["Authorization"] for one in receiver.headers] == ["Bearer Nobody-may-read-this"] * 2
    (warning,) = heard.warnings
    assert "ConfigError" in warning


def test_a_file_that_cannot_be_written_is_a_warning(settings, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "lineage").touch()
    heard = Heard()
    with listening(heard), recorded(settings()):
        pass
    assert len(heard.warnings) == 2
    assert all("could not be written" in one for one in heard.warnings)


@pytest.mark.parametrize(
    "given", [{"api_key": "Nobody-may-read-this"}, {"url": "http://user:Nobody@host"}], ids=["key", "url"]
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(settings, given):
    with pytest.raises(ConfigError, match=rf"lineage\.{next(iter(given))}: this value cannot be used") as error:
        parse_settings(settings().model_dump() | {"lineage": given})
    assert "Nobody" not in str(error.value)


def test_the_repository_is_named_without_its_credentials(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(
        '[remote "origin"]\n\turl = https://user:Nobody@git.example/team/repo.git\n'
    )
    with recorded(settings()):
        pass
    location = told()[0]["job"]["facets"]["sourceCodeLocation"]
    assert location["url"] == "https://git.example/team/repo.git"
    assert "Nobody" not in events_file("readings").read_text()
    assert problems(told()[0]) == []
