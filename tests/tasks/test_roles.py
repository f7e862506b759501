"""From the configuration to the engine's dataclasses: every setting arrives."""

import dataclasses

import pandas as pd
import pytest

from denograd_engine.columns import Role
from denograd_engine.errors import SchemaError
from denograd_engine.refinement import Refining
from denograd_engine.schema import Series
from denograd_engine.training import Training
from denograd_tasks.roles import refining_of, schema_of, training_of
from denograd_tasks.settings import parse_settings


def settings(**changes):
    return parse_settings({"dataset": "set", "source": "data.csv", "columns": {"target": "y"}, **changes})


@pytest.fixture
def frame():
    rows = 60
    return pd.DataFrame(
        {
            "t": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "a": [x * 1.5 for x in range(rows)],
            "b": [x % 3 for x in range(rows)],
            "c": ["x", "y"] * (rows // 2),
            "y": [x**1.1 for x in range(rows)],
        }
    )


def roles(schema):
    return {column.name: str(column.role) for column in schema.columns}


def test_roles_are_inferred_where_none_is_declared(frame):
    schema = schema_of(frame, settings())
    assert roles(schema) == {"t": "frozen", "a": "feature", "b": "frozen", "c": "frozen", "y": "target"}
    assert schema.series is None


def test_declared_roles_and_bounds_arrive(frame):
    columns = {
        "target": "y",
        "feature": "b",
        "frozen": ["a"],
        "ignored": "c",
        "bounds": {"b": [0, None], "y": [None, 99]},
    }
    schema = schema_of(frame, settings(columns=columns))
    assert roles(schema) == {"t": "frozen", "a": "frozen", "b": "feature", "c": "ignored", "y": "target"}
    assert (schema["b"].minimum, schema["b"].maximum) == (0, None)
    assert (schema["y"].minimum, schema["y"].maximum) == (None, 99)


def test_the_time_axis_arrives(frame):
    given = {"time": "t", "entity": "c", "window": 5, "future": 2, "stride": 3, "max_gap": "2h"}
    schema = schema_of(frame, settings(series=given))
    assert schema.series == Series("t", ("c",), 5, 2, 3, "2h")
    assert schema["t"].role is Role.IGNORED


def test_a_wrong_role_is_the_engines_error(frame):
    with pytest.raises(SchemaError, match="no column 'z'"):
        schema_of(frame, settings(columns={"target": "z"}))


def test_every_training_setting_arrives():
    given = {
        "epochs": 3,
        "patience": 4,
        "batch_size": 5,
        "learning_rate": 0.6,
        "weight_decay": 0.7,
        "holdout": 0.8,
        "criterion": "huber",
    }
    training = training_of(settings(backbone={"training": given}, seed=9, device="cpu"))
    assert dataclasses.asdict(training) == {**given, "seed": 9, "device": "cpu"}


def test_every_refinement_setting_arrives():
    given = {
        "rule": "gauss_newton",
        "arguments": {"anchored": False},
        "tau": 0.2,
        "eta": 0.3,
        "max_epochs": 4,
        "refine_targets": False,
        "batch_size": 5,
        "deadline": 6.0,
        "smoothing": {"kind": "noisegrad", "samples": 7, "sigma_input": 0.8, "sigma_weights": 0.9},
    }
    refining = refining_of(settings(refine=given, seed=9, device="cpu"))
    smoothing = {**given["smoothing"], "seed": 9}
    assert dataclasses.asdict(refining) == {**given, "smoothing": smoothing, "device": "cpu"}


def test_defaults_are_the_engines():
    assert training_of(settings()) == Training()
    assert refining_of(settings()) == Refining()
    assert Series("t") == Series(**settings(series={"time": "t"}).series.model_dump())
