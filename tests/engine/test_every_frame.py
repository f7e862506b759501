"""What a refinement keeps of every frame: shape, types, index, missing cells, untouched columns, and the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denograd_engine.frames import Encoder
from denograd_engine.refinement import Refining, refine
from denograd_engine.schema import infer_schema
from denograd_engine.training import Backbone, Training, train
from tests.engine.problems import fitted, linear, mixed_series, mixed_table, plain_table, width_of
from tests.engine.strategies import INDEXES, Sample, assert_faithful, assert_same_cells, index, samples

CPU = Refining(device="cpu", max_epochs=3, tau=0.1, eta=0.05)


def any_backbone(sample):
    """Random, untrained, linear: properties must hold for every network."""
    encoder = Encoder.fit(sample.frame, sample.schema)
    random = np.random.default_rng(sample.seed)
    module = linear(random.normal(size=(1, width_of(encoder))), random.normal(), torch.float32)
    return Backbone(module, encoder, {}, 0.0)


class TestEveryFrame:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(samples(), st.sampled_from([0.1, 2.0]), st.booleans())
    def test_keeps_shape_types_index_missing_and_untouched_cells(self, sample, eta, refine_targets):
        kept = sample.frame.copy(deep=True)
        refining = Refining(eta=eta, tau=0.3, max_epochs=5, refine_targets=refine_targets, device="cpu")
        result = refine(sample.frame, any_backbone(sample), refining)
        assert_faithful(sample, result.frame)
        for name in kept.columns:
            assert_same_cells(kept[name], sample.frame[name])
        pd.testing.assert_index_equal(result.rows.index, kept.index, exact=True)
        skipped = (result.rows["status"] == "skipped").to_numpy()
        assert skipped.tolist() == kept["target"].isna().tolist()
        still = skipped | (result.rows["correction"] == 0).to_numpy()
        for name in kept.columns:
            column, numbers = sample.schema[name], None
            if column.refined:
                numbers = kept[name].to_numpy(dtype=np.float64, na_value=np.nan)
                low, high = (-np.inf if column.minimum is None else column.minimum), column.maximum or np.inf
                legal = still & ~((numbers < low) | (numbers > high))
                assert_same_cells(kept[name][legal], result.frame[name][legal])
        if not refine_targets and sample.schema["target"].minimum is None:
            assert_same_cells(kept["target"], result.frame["target"])

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(samples())
    def test_data_that_the_backbone_explains_come_back_bit_identical(self, sample):
        result = refine(sample.frame, any_backbone(sample), Refining(tau=1e6, device="cpu"))
        assert_faithful(sample, result.frame)
        for column in sample.schema.columns:
            if column.minimum is None and column.maximum is None:
                assert_same_cells(sample.frame[column.name], result.frame[column.name])
        assert result.totals.epochs == 1
        assert set(result.totals.status) <= {"within_gate", "skipped"}

    @pytest.mark.parametrize("problem", [mixed_table(missing=True), mixed_series(entities=2, missing=True)])
    def test_the_same_seed_gives_the_same_bytes(self, problem):
        torch.manual_seed(1)
        ours, found = torch.get_rng_state(), []
        for _ in range(2):
            backbone = train(problem.frame, problem.schema, training=Training(epochs=3, seed=5, device="cpu"))
            found.append(refine(problem.frame, backbone, Refining(device="cpu", max_epochs=10)))
            torch.rand(3)
        torch.manual_seed(1)
        assert torch.equal(ours, torch.get_rng_state())
        for name in problem.frame.columns:
            assert_same_cells(found[0].frame[name], found[1].frame[name])
        pd.testing.assert_frame_equal(found[0].rows, found[1].rows, check_exact=True)
        assert found[0].totals == found[1].totals
        other = train(problem.frame, problem.schema, training=Training(epochs=3, seed=6, device="cpu"))
        assert not refine(problem.frame, other, Refining(device="cpu")).frame.equals(found[0].frame)

    @pytest.mark.parametrize("kind", INDEXES)
    def test_series_keep_them_too(self, kind):
        problem = mixed_series(entities=2, gap=True, missing=True, targets=2)
        frame = problem.frame.astype({"wind": "float32", "power0": "Float64", "mode": "int8"})
        frame["power1"] = frame["power1"].round().astype("Int64")
        frame["label"] = pd.Categorical(np.where(frame["mode"] == 1, None, "b"))
        frame.index = index(kind, len(frame), np.random.default_rng(0))
        series = replace(problem.schema.series, window=3)
        bounds = {"wind": (0.1, 9.7), "power1": (0, None)}
        schema = infer_schema(frame, ["power0", "power1"], bounds=bounds, series=series)
        sample = Sample(frame, schema, 0)
        inputs = 3 * (len(schema.cells) + Encoder.fit(frame, schema).context_width)
        weight = np.random.default_rng(1).normal(size=(2, inputs)) / 3
        backbone = fitted(frame, schema, linear(weight, dtype=torch.float32))
        result = refine(frame, backbone, Refining(eta=0.5, max_epochs=5, device="cpu"))
        assert_faithful(sample, result.frame)
        pd.testing.assert_index_equal(result.rows.index, frame.index, exact=True)
        assert {"wind", "power0", "power1"} == set(schema.refined)
        for name in schema.refined:
            moved = ~(result.frame[name] == frame[name]).fillna(True).to_numpy(dtype=bool)
            assert moved.sum() > 20

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_memory_that_is_strided_or_read_only(self, dtype):
        problem = plain_table()
        expected = refine(problem.frame.astype(dtype), problem.backbone, CPU).frame
        block = np.asfortranarray(np.repeat(problem.frame.to_numpy(dtype), 2, axis=1))[:, ::2]
        block.flags.writeable = False
        frame = pd.DataFrame(block, columns=problem.frame.columns, copy=False)
        for given_frame in (frame, frame.iloc[::-1].iloc[::-1]):
            found = refine(given_frame, problem.backbone, CPU).frame
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
        assert set(expected.dtypes) == {np.dtype(dtype)}
        assert (expected != problem.frame.astype(dtype)).any(axis=None)

    def test_a_column_may_come_back_in_another_numeric_type(self):
        problem = mixed_table()
        frame = problem.frame.assign(count=np.arange(70) % 35, y0=problem.frame["y0"].astype("float32"))
        schema = infer_schema(frame, "y0", ignored=["note"])
        assert schema["count"].integer
        backbone = fitted(frame, schema, linear(np.full(8, 0.5)))
        for dtype in ("float64", "Int64", "int8", "float32"):
            later = frame.astype({"count": dtype, "y0": "int64" if dtype == "int8" else "float64"})
            if dtype in ("float64", "Int64"):
                later.loc[3, "count"] = pd.NA if dtype == "Int64" else np.nan
            result = refine(later, backbone, CPU).frame
            assert result.dtypes.equals(later.dtypes)
            assert result["count"].isna().equals(later["count"].isna())
            moved = (result["count"] - later["count"]).dropna()
            assert (moved == np.round(moved.astype("float64"))).all()
