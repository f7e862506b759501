"""Which rows belong together: folds and halves of tables by content, of series in blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from denograd_engine.errors import TooFewRowsError
from denograd_engine.folds import first_half, fold_of, predicting, shares, touching
from denograd_engine.frames import Encoder
from denograd_engine.problem import pose
from denograd_engine.schema import Series, infer_schema
from tests.engine.problems import mixed_series, mixed_table


def posed(problem):
    encoder = Encoder.fit(problem.frame, problem.schema)
    return pose(problem.frame, encoder, torch.device("cpu"), torch.float64, fewest=1)


class TestTables:
    def test_equal_rows_share_a_fold_and_a_half_wherever_they_stand(self):
        problem = mixed_table(missing=True, rows=200)
        doubled = pd.concat([problem.frame, problem.frame.sample(frac=1.0, random_state=0)])
        fold, half = fold_of(doubled, problem.schema, 5), first_half(doubled, problem.schema)
        for part in (fold, half):
            by_row = pd.Series(part, index=doubled.index)
            assert (by_row.groupby(level=0).nunique() == 1).all()

    def test_a_row_s_fold_does_not_depend_on_the_other_rows(self):
        problem = mixed_table(rows=200)
        assert np.array_equal(
            fold_of(problem.frame, problem.schema, 4)[50:90], fold_of(problem.frame.iloc[50:90], problem.schema, 4)
        )

    def test_what_no_backbone_reads_does_not_matter(self):
        problem = mixed_table(rows=100)
        other = problem.frame.assign(note="the same")
        assert np.array_equal(fold_of(problem.frame, problem.schema, 3), fold_of(other, problem.schema, 3))

    @pytest.mark.parametrize("folds", [2, 3, 10])
    def test_folds_are_of_about_the_same_size_and_cut_across_halves(self, folds):
        problem = mixed_table(rows=4000)
        fold, half = fold_of(problem.frame, problem.schema, folds), first_half(problem.frame, problem.schema)
        counts = np.bincount(fold, minlength=folds) * folds / 4000
        assert len(counts) == folds
        assert counts.min() > 0.8
        assert counts.max() < 1.2
        for number in range(folds):
            assert 0.4 < half[fold == number].mean() < 0.6

    def test_rows_that_are_all_the_same_cannot_be_halved(self):
        problem = mixed_table(rows=100)
        same = problem.frame.iloc[[0] * 100]
        with pytest.raises(TooFewRowsError, match="cannot be halved") as caught:
            first_half(same, problem.schema)
        assert "refine.strength" in caught.value.remedy


class TestSeries:
    @pytest.mark.parametrize("entities", [1, 2])
    def test_folds_are_blocks_of_neighbouring_steps(self, entities):
        problem = mixed_series(entities=entities, steps=400)
        fold = fold_of(problem.frame, problem.schema, 3)
        for _, steps in problem.frame.assign(fold=fold).groupby("site"):
            changes = int((steps["fold"].diff().fillna(0) != 0).sum())
            assert changes <= 12
        assert np.bincount(fold).min() > 0.9 * len(fold) / 3

    def test_blocks_have_room_for_windows(self):
        problem = mixed_series(window=20, steps=300)
        fold = fold_of(problem.frame, problem.schema, 3)
        assert int((np.diff(fold) != 0).sum()) == 2

    def test_halves_are_blocks_in_turn(self):
        frame = pd.DataFrame({"t": np.arange(400), "x": np.random.default_rng(0).normal(size=400)})
        schema = infer_schema(frame, "x", series=Series("t", window=4))
        half = first_half(frame, schema)
        assert half.sum() == 200
        assert half.reshape(20, 20).all(axis=1).tolist() == [True, False] * 10

    def test_touching_windows_show_or_predict_and_predicting_ones_predict(self):
        problem = posed(mixed_series(window=4, future=(1, 3), steps=60))
        inside = torch.zeros(len(problem.cells), dtype=torch.bool)
        inside[20:23] = True
        starts = problem.windows.starts.tolist()
        shown = [start for start in starts if {*range(start, start + 4), start + 4, start + 6} & {20, 21, 22}]
        predicted = [start for start in starts if {start + 4, start + 6} <= {20, 21, 22}]
        assert [start for start, one in zip(starts, touching(problem, inside).tolist(), strict=True) if one] == shown
        assert [s for s, one in zip(starts, predicting(problem, inside).tolist(), strict=True) if one] == predicted


@pytest.mark.parametrize("made", [mixed_table(missing=True, rows=120), mixed_series(missing=True, steps=120)])
def test_every_item_is_in_the_shares_of_the_folds_that_it_touches(made):
    problem = posed(made)
    fold = fold_of(made.frame, made.schema, 3)
    parts = shares(problem, fold, 3)
    together = torch.cat([part.known for part in parts])
    assert torch.equal(together.unique(), problem.known)
    if made.schema.series is None:
        assert len(together) == len(problem.known)
        for number, part in enumerate(parts):
            assert set(fold[part.known.numpy()]) == {number}
    else:
        assert len(problem.known) < len(together) < 1.5 * len(problem.known)
