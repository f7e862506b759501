"""Tables while they are refined: interruption, progress, and rows that make room for others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine.refinement import Refining, refine
from tests.engine.problems import fitted, mixed_table, plain_table


def refined(problem, **refining):
    return refine(problem.frame, problem.backbone, Refining(**{"device": "cpu", **refining}))


class TestInterruption:
    def test_a_deadline_that_has_passed_changes_nothing(self):
        problem = plain_table()
        result = refined(problem, eta=0.01, tau=0.05, deadline=0.0)
        pd.testing.assert_frame_equal(result.frame, problem.frame, check_exact=True)
        assert result.totals.interrupted
        assert result.totals.epochs == 0
        inside = result.rows["residual_before"].abs() <= 0.05
        assert result.rows["status"].tolist() == np.where(inside, "within_gate", "interrupted").tolist()
        residual = problem.frame[["x0", "x1", "x2"]] @ problem.weight[0] - problem.frame["y"]
        np.testing.assert_allclose(result.rows["residual_before"], residual, atol=1e-12)
        np.testing.assert_allclose(result.rows["residual_after"], residual, atol=1e-12)

    @pytest.mark.parametrize("passes", [1, 4, 6, 9, 14])
    def test_when_cancelled_rows_under_way_stay_where_they_are_and_the_others_as_observed(self, passes):
        problem = plain_table(residual=np.tile([2.0, -3.0], 30))
        turns = iter(range(1000))
        result = refine(
            problem.frame,
            problem.backbone,
            Refining(eta=0.01, tau=0.05, max_epochs=6, batch_size=12, device="cpu"),
            cancelled=lambda: next(turns) >= passes,
        )
        steps = np.array([min(6, max(0, passes - 6 * (row // 12))) for row in range(60)])
        assert result.rows["iterations"].tolist() == steps.tolist()
        np.testing.assert_allclose(result.rows["correction"], steps * 0.01, atol=1e-12)
        assert set(result.rows["status"]) == {"interrupted"}
        assert result.totals.interrupted
        assert result.totals.epochs == min(6, passes)
        observed = steps == 0
        pd.testing.assert_frame_equal(result.frame[observed], problem.frame[observed], check_exact=True)
        expected = problem.frame[["x0", "x1", "x2"]] @ problem.weight[0] - problem.frame["y"]
        np.testing.assert_allclose(result.rows["residual_before"], expected, atol=1e-9)
        reached = result.frame[["x0", "x1", "x2"]] @ problem.weight[0] - result.frame["y"]
        np.testing.assert_allclose(result.rows["residual_after"], reached, atol=1e-9)

    def test_rows_that_have_nowhere_to_go_have_stalled_all_the_same(self):
        problem = plain_table(residual=[0.06] * 3 + [3.0] * 57)

        class Plateau(nn.Module):
            def __init__(self, line):
                super().__init__()
                self.line = line

            def forward(self, x):
                line = self.line(x)
                return torch.where(x[:, 2:] == 7.0, line.detach(), line)

        frame = problem.frame.copy()
        frame.loc[[4, 40], "y"] += (7.0 - frame.loc[[4, 40], "x2"]) * -0.5
        frame.loc[[4, 40], "x2"] = 7.0
        backbone = fitted(frame, problem.schema, Plateau(problem.backbone.module), standardise=False)
        turns, refining = iter(range(10)), Refining(eta=0.01, tau=0.05, refine_targets=False, device="cpu")
        result = refine(frame, backbone, refining, cancelled=lambda: next(turns) >= 3)
        expected = ["converged"] * 3 + ["interrupted"] * 57
        expected[4] = expected[40] = "stalled"
        assert result.rows["status"].tolist() == expected

    def test_rows_that_have_arrived_before_keep_their_status(self):
        problem = plain_table(residual=[0.06] * 30 + [3.0] * 30)
        turns = iter(range(10))
        result = refine(
            problem.frame,
            problem.backbone,
            Refining(eta=0.01, tau=0.05, device="cpu"),
            cancelled=lambda: next(turns) >= 3,
        )
        assert result.rows["status"].tolist() == ["converged"] * 30 + ["interrupted"] * 30
        assert result.rows["iterations"].tolist() == [1] * 30 + [3] * 30


class TestProgress:
    def test_is_the_share_of_the_rows_that_are_done(self):
        problem, seen = plain_table(residual=[0.06] * 30 + [0.21] * 30), []
        refining = Refining(eta=0.01, tau=0.05, device="cpu")
        refine(problem.frame, problem.backbone, refining, on_progress=seen.append)
        assert {one.items for one in seen} == {60}
        assert [(one.share, one.active) for one in seen] == [(0.5, 30), (1.0, 0)]

    def test_rises_to_one_while_rows_make_room_for_others(self):
        problem, seen = mixed_table(targets=2), []
        refining = Refining(eta=0.1, tau=0.2, max_epochs=20, batch_size=9, device="cpu")
        refine(problem.frame, problem.backbone, refining, on_progress=seen.append)
        shares = [one.share for one in seen]
        assert len(shares) > 8
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert [one.active for one in seen] == [round(70 * (1 - share)) for share in shares]


class TestTopUp:
    def test_every_pass_is_full_while_rows_wait(self):
        problem, asked = mixed_table(targets=2), []
        problem.backbone.module.register_forward_hook(lambda module, given, output: asked.append(len(output)))
        refined(problem, eta=0.1, tau=0.2, max_epochs=20, batch_size=20)
        asked = [size for size in asked if size > 2]
        assert max(asked) == 20
        assert sum(size >= 18 for size in asked) > len(asked) / 3

    def test_rows_that_join_late_take_as_many_epochs_as_the_first(self):
        problem = plain_table(residual=[0.31] * 10 + [50.0] * 50)
        result = refined(problem, eta=0.01, tau=0.05, max_epochs=17, batch_size=20)
        needed = int(np.ceil(0.26 / (0.01 * np.sqrt(1 + 4 + 0.25 + 1))))
        assert needed < 17
        assert result.rows["iterations"].tolist() == [needed] * 10 + [17] * 50
        assert result.rows["status"].tolist() == ["converged"] * 10 + ["max_epochs"] * 50
        assert result.totals.epochs == 17
