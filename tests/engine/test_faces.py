"""Importing a package is quick: it brings nothing heavy until a name is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import denograd_engine

HEAVY = ("torch", "pandas", "numpy", "scipy", "pyarrow", "prefect", "mlflow", "great_expectations", "ot", "obstore")


def brought_by(statement):
    """Which heavy packages a fresh interpreter has loaded after this statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_engine_brings_nothing():
    assert brought_by("import denograd_engine") == set()


def test_its_errors_and_schema_bring_nothing_either():
    assert brought_by("import denograd_engine.errors, denograd_engine.schema") == set()


def test_the_tasks_bring_prefect_alone():
    brought = brought_by("import denograd_tasks")
    assert "prefect" in brought
    assert not brought & {"torch", "mlflow", "great_expectations", "pandas", "ot"}


def test_the_engine_brings_no_orchestrator_tracker_or_validator_at_work():
    brought = brought_by("from denograd_engine import *")
    assert {"torch", "pandas"} <= brought
    assert not brought & {"prefect", "mlflow", "great_expectations", "obstore"}


@pytest.mark.parametrize("name", denograd_engine.__all__)
def test_every_name_of_the_engine_is_there(name):
    found = getattr(denograd_engine, name)
    assert name == "__version__" or found.__name__ == name


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="no attribute 'clean'"):
        _ = denograd_engine.clean
