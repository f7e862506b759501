"""Frames of every kind: mixed types, missing cells, odd indexes, read-only and strided memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from denograd_engine.schema import Schema, infer_schema

MEASURED = ["float64", "float32", "int64", "int8", "Int64", "Int16", "Float64", "float64 strided", "float32 read-only"]
OTHER = ["boolean", "bool", "string", "category", "object", "datetime", "datetime with tz", "timedelta", "constant"]
INDEXES = ["range", "text", "repeated", "multi", "datetime", "float"]


@dataclass(frozen=True)
class Sample:
    """A frame and the roles of its columns. The target is `target`."""

    frame: pd.DataFrame
    schema: Schema
    seed: int


@st.composite
def samples(draw, rows=60):
    """Tables with one to four measured columns and up to four others; every measured column has two values or more."""
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    random = np.random.default_rng(seed)
    measured = draw(st.lists(st.sampled_from(MEASURED), min_size=1, max_size=4), label="measured")
    others = draw(st.lists(st.sampled_from(OTHER), max_size=4), label="others")
    target = draw(st.sampled_from(MEASURED), label="target")
    share = draw(st.sampled_from([0.0, 0.15]), label="missing")
    columns, roles, bounds = {}, {"features": [], "frozen": [], "ignored": []}, {}
    for at, kind in enumerate([*measured, *others]):
        name = f"{kind} {at}"
        columns[name] = column(kind, rows, random, share)
        choices = ["features", "frozen", "ignored"] if kind in measured else ["frozen", "ignored"]
        role = "features" if at == 0 else draw(st.sampled_from(choices), label=name)
        roles[role].append(name)
        if role == "features" and draw(st.booleans(), label="bounded"):
            bounds[name] = draw(st.sampled_from([(-20.3, 20.7), (None, 30.1), (-0.1, None)]), label="bounds")
    columns["target"] = column(target, rows, random, 0.05 if share else 0.0)
    names = draw(st.permutations(list(columns)), label="order")
    frame = pd.DataFrame({name: columns[name] for name in names})
    frame.index = index(draw(st.sampled_from(INDEXES), label="index"), rows, random)
    return Sample(frame, infer_schema(frame, "target", bounds=bounds, **roles), seed)


def column(kind, rows, random, share):
    """One column; `share` of its cells are missing where its type has missing cells."""
    hole = random.random(rows) < share
    numbers = random.normal(0.0, 30.0, rows)
    whole = np.clip(np.round(numbers), -128, 127)
    if kind.startswith("float"):
        dtype = kind.split()[0]
        values = np.where(hole, np.nan, numbers).astype(dtype)
        if kind.endswith("strided"):
            values = np.repeat(values, 2)[::2]
        if kind.endswith("read-only"):
            values.flags.writeable = False
        return values
    if kind in ("int64", "int8"):
        return whole.astype(kind)
    if kind in ("Int64", "Int16", "Float64"):
        values = pd.array(numbers if kind == "Float64" else whole.astype(int), dtype=kind)
        values[hole] = pd.NA
        return values
    if kind == "constant":
        return np.full(rows, 7.5)
    if kind == "bool":
        return numbers > 0
    if kind == "boolean":
        values = pd.array(numbers > 0, dtype="boolean")
        values[hole] = pd.NA
        return values
    if kind in ("string", "category", "object"):
        text = np.where(hole, None, random.choice(["low", "mid", "", "höh"], rows))
        return pd.Series(text, dtype={"string": "string", "category": "category", "object": object}[kind]).array
    if kind == "timedelta":
        return pd.Series(pd.to_timedelta(np.where(hole, np.nan, whole), "min")).array
    stamps = pd.Series(pd.Timestamp("2024-03-30") + pd.to_timedelta(np.where(hole, np.nan, whole), "h"))
    return (stamps if kind == "datetime" else stamps.dt.tz_localize("UTC").dt.tz_convert("America/Lima")).array


def index(kind, rows, random):
    """A row index; only `repeated` and `float` hold a label twice or none at all."""
    if kind == "text":
        return pd.Index([f"row {at}" for at in random.permutation(rows)], name="label")
    if kind == "repeated":
        return pd.Index(random.integers(0, 3, rows))
    if kind == "multi":
        return pd.MultiIndex.from_arrays([random.integers(0, 3, rows), np.arange(rows)], names=["site", None])
    if kind == "datetime":
        return pd.date_range("2024-03-30", periods=rows, freq="h", tz="Europe/Berlin", name="when")
    if kind == "float":
        return pd.Index(np.where(np.arange(rows) % 7, random.normal(size=rows), np.nan))
    return pd.RangeIndex(rows)


def assert_same_cells(before, after):
    """Bit by bit: type, missing cells, signs of zero."""
    assert after.dtype == before.dtype
    pd.testing.assert_series_equal(after, before, check_exact=True)
    if before.dtype.kind == "f" and isinstance(before.dtype, np.dtype):
        assert after.to_numpy().tobytes() == before.to_numpy().tobytes()


def assert_faithful(sample, refined):
    """What any refinement of this frame must keep."""
    frame, schema = sample.frame, sample.schema
    assert refined.shape == frame.shape
    assert list(refined.columns) == list(frame.columns)
    assert refined.dtypes.tolist() == frame.dtypes.tolist()
    pd.testing.assert_index_equal(refined.index, frame.index, exact=True)
    assert refined.isna().equals(frame.isna())
    for name in schema.untouched:
        assert_same_cells(frame[name], refined[name])
    for name in schema.refined:
        present = refined[name].dropna().to_numpy(dtype=np.float64)
        assert np.isfinite(present).all()
        if schema[name].minimum is not None:
            assert present.min() >= schema[name].minimum
        if schema[name].maximum is not None:
            assert present.max() <= schema[name].maximum
        if schema[name].integer:
            assert (present == np.round(present)).all()
