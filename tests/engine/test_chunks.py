"""A long table is refined in chunks: the result is that of one piece."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from denograd_engine import refinement
from denograd_engine.errors import TooFewRowsError
from denograd_engine.refinement import Refining, refine
from tests.engine.problems import mixed_table, plain_table
from tests.engine.strategies import INDEXES, index

REFINING = Refining(tau=0.2, eta=0.1, max_epochs=15, batch_size=4, device="cpu")


@pytest.fixture
def in_chunks(monkeypatch):
    """Chunks of 16 rows, every fourth row or so probed."""
    monkeypatch.setattr(refinement, "CHUNK", 16)
    monkeypatch.setattr(refinement, "PROBED_ROWS", 20)


def whole(problem, refining=REFINING):
    """As if it were short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "CHUNK", 65_536)
        return refine(problem.frame, problem.backbone, refining)


@pytest.mark.usefixtures("in_chunks")
class TestChunks:
    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton"])
    @pytest.mark.parametrize("case", [{}, {"targets": 2, "missing": True, "rows": 131}])
    def test_come_to_the_same_as_one_piece(self, case, rule):
        problem, refining = mixed_table(**case), replace(REFINING, rule=rule)
        found, expected = refine(problem.frame, problem.backbone, refining), whole(problem, refining)
        pd.testing.assert_frame_equal(found.frame, expected.frame, rtol=1e-12)
        pd.testing.assert_frame_equal(found.rows, expected.rows, rtol=1e-9, atol=1e-12)
        for name, value in vars(expected.totals).items():
            assert getattr(found.totals, name) == (pytest.approx(value) if isinstance(value, float) else value)
        assert len(expected.totals.status) >= 3

    def test_of_proximal_settle_each_by_itself(self):
        problem = mixed_table(targets=2, missing=True)
        refining = replace(REFINING, rule="proximal", arguments={"s2": 0.3}, eta="auto", max_epochs=2000)
        found, expected = refine(problem.frame, problem.backbone, refining), whole(problem, refining)
        cells, spreads = problem.schema.cells, problem.backbone.encoder.spreads
        away = (found.frame[cells] - expected.frame[cells]) / spreads
        assert away.abs().max(axis=None) < 2e-2
        assert found.rows["status"].tolist() == expected.rows["status"].tolist()

    @pytest.mark.parametrize("kind", INDEXES)
    def test_keep_any_index(self, kind):
        problem = mixed_table(missing=True)
        frame = problem.frame.set_axis(index(kind, 70, np.random.default_rng(0)))
        result = refine(frame, problem.backbone, REFINING)
        pd.testing.assert_index_equal(result.frame.index, frame.index, exact=True)
        pd.testing.assert_index_equal(result.rows.index, frame.index, exact=True)
        expected = whole(problem).frame
        pd.testing.assert_frame_equal(result.frame.set_axis(expected.index), expected, rtol=1e-12)

    def test_the_automatic_step_is_that_of_the_probed_rows(self):
        problem = plain_table([1.0, 2.0, -0.5])
        result = refine(problem.frame, problem.backbone, replace(REFINING, eta="auto", tau=0.05))
        assert result.totals.eta == pytest.approx(0.05 / np.sqrt(1 + 4 + 0.25 + 1))

    def test_progress_rises_to_one(self):
        problem, seen = mixed_table(targets=2), []
        refine(problem.frame, problem.backbone, REFINING, on_progress=seen.append)
        shares = [one.share for one in seen]
        assert len(shares) > 10
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert {one.items for one in seen} == {70}
        active = [one.active for one in seen]
        assert active == sorted(active, reverse=True)
        assert active[-1] == 0

    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
    def test_cancelled_in_the_middle_the_later_rows_are_as_observed(self, rule):
        problem, stops = plain_table(residual=np.tile([2.0, -3.0], 30)), []
        refining = replace(REFINING, rule=rule, eta=0.1, tau=0.01, max_epochs=5)
        result = refine(
            problem.frame,
            problem.backbone,
            refining,
            on_progress=lambda progress: stops.append(progress.share),
            cancelled=lambda: bool(stops) and stops[-1] > 0.4,
        )
        done = round(stops[-1] * 60)
        assert 24 < done < 36
        assert (result.rows["correction"][:16] > 0).all()
        later = slice(48, None)
        pd.testing.assert_frame_equal(result.frame[later], problem.frame[later], check_exact=True)
        assert set(result.rows["status"][later]) == {"interrupted"}
        assert "interrupted" not in set(result.rows["status"][:16])
        assert result.totals.interrupted
        residual = problem.frame[["x0", "x1", "x2"]] @ problem.weight[0] - problem.frame["y"]
        np.testing.assert_allclose(result.rows["residual_before"], residual, atol=1e-12)
        np.testing.assert_allclose(result.rows["residual_after"][later], residual[later], atol=1e-12)
        if rule != "proximal":  # it minimises the rows of a chunk together, and is not at its end here
            finished = refine(problem.frame, problem.backbone, refining).frame
            pd.testing.assert_frame_equal(result.frame[:16], finished[:16], rtol=1e-9)

    def test_a_deadline_that_has_passed_changes_nothing(self):
        problem = mixed_table(targets=2, missing=True)
        result = refine(problem.frame, problem.backbone, replace(REFINING, deadline=0.0))
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
        assert result.totals.interrupted
        assert result.rows["residual_before"].notna().sum() == 65

    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
    def test_without_a_known_target_are_skipped(self, rule):
        problem = mixed_table()
        frame = problem.frame.assign(y0=problem.frame["y0"].where(problem.frame.index >= 20))
        result = refine(frame, problem.backbone, replace(REFINING, rule=rule))
        assert (result.rows["status"] == "skipped").tolist() == [True] * 20 + [False] * 50
        with pytest.raises(TooFewRowsError, match="too few rows to refine"):
            refine(frame.assign(y0=np.nan), problem.backbone, replace(REFINING, rule=rule, eta="auto"))
