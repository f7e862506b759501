"""Several workers come to what one comes to, in the same order, and leave torch as it was."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from denograd_engine import rows_loop, windows_loop
from denograd_engine.refinement import Refining, refine
from denograd_engine.workers import ALONE, workers_for
from tests.engine.problems import Linear, fitted, mixed_series, mixed_table

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Own(nn.Module):
    """A layer of a user's, which may keep state."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x):
        return self.inner(x)


class TestLending:
    def test_as_many_as_threads_but_no_more_than_asked_for(self, threads):
        threads(3)
        for most, count in ((16, 3), (2, 2), (1, 1)):
            with workers_for(nn.Linear(3, 1), CPU, most) as workers:
                assert workers.count == count
        assert torch.get_num_threads() == 3

    def test_none_for_layers_that_may_keep_state(self, threads):
        threads(2)
        for module in (Own(), nn.Sequential(nn.Linear(3, 3), Own())):
            with workers_for(module, CPU, 16) as workers:
                assert workers is ALONE

    def test_each_has_one_thread_of_torch(self, threads):
        threads(2)
        with workers_for(nn.Linear(3, 1), CPU, 2) as workers:
            assert set(workers.each(lambda _: torch.get_num_threads(), range(8))) == {1}
        assert torch.get_num_threads() == 2

    def test_answers_come_in_the_order_of_the_questions(self, threads):
        threads(2)
        with workers_for(nn.Linear(3, 1), CPU, 2) as workers:
            gate = threading.Event()

            def slow_first(at):
                if at == 0:
                    gate.wait(5)
                if at == 1:
                    gate.set()
                return at

            assert list(workers.each(slow_first, range(20))) == list(range(20))

    @pytest.mark.parametrize("way", ["each", "together"])
    def test_an_error_comes_out_and_torch_is_as_before(self, threads, way):
        threads(2)

        def fails(at):
            if at == 3:
                raise ValueError("three")
            return at

        with pytest.raises(ValueError, match="three"), workers_for(nn.Linear(3, 1), CPU, 2) as workers:
            list(workers.each(fails, range(9))) if way == "each" else workers.together(fails, range(9), lambda: None)
        assert torch.get_num_threads() == 2
        assert not [one for one in threading.enumerate() if one.name.startswith("refine")]


def with_threads(threads, count, call):
    threads(count)
    return call()


class TestRefinement:
    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
    @pytest.mark.parametrize("refining", [{}, {"max_epochs": 3}, {"refine_targets": False}])
    def test_of_tables_is_the_same(self, threads, monkeypatch, rule, refining):
        monkeypatch.setattr(rows_loop, "FEWEST_OF_A_WORKER", 20)
        problem = mixed_table(targets=2, missing=True)
        settings = Refining(**{"rule": rule, "tau": 0.3, "batch_size": 8, "device": "cpu", **refining})
        one, two = (
            with_threads(threads, count, lambda: refine(problem.frame, problem.backbone, settings)) for count in (1, 3)
        )
        pd.testing.assert_frame_equal(two.frame, one.frame, rtol=1e-9)
        pd.testing.assert_frame_equal(two.rows, one.rows, rtol=1e-9, atol=1e-9)
        assert replace(two.totals, eta=0.0, residual_before=0.0, residual_after=0.0) == replace(
            one.totals, eta=0.0, residual_before=0.0, residual_after=0.0
        )

    @pytest.mark.parametrize("rule", ["denograd", "gauss_newton", "proximal"])
    def test_of_series_is_the_same(self, threads, monkeypatch, rule):
        monkeypatch.setattr(windows_loop, "GATHERED", 1)
        problem = mixed_series(targets=2, entities=2, gap=True, missing=True)
        settings = Refining(rule=rule, tau=0.3, max_epochs=10, batch_size=7, device="cpu")
        one, two = (
            with_threads(threads, count, lambda: refine(problem.frame, problem.backbone, settings)) for count in (1, 3)
        )
        pd.testing.assert_frame_equal(two.frame, one.frame, rtol=1e-9)
        pd.testing.assert_frame_equal(two.rows, one.rows, rtol=1e-9, atol=1e-9)

    def test_callbacks_are_called_in_the_callers_thread(self, threads, monkeypatch):
        monkeypatch.setattr(rows_loop, "FEWEST_OF_A_WORKER", 20)
        threads(2)
        problem, seen = mixed_table(), []

        def note(*_):
            seen.append(threading.current_thread())
            return False

        refine(problem.frame, problem.backbone, Refining(tau=0.01, device="cpu"), note, note)
        assert set(seen) == {threading.main_thread()}

    def test_an_interrupt_ends_the_workers_at_once(self, threads, monkeypatch):
        monkeypatch.setattr(rows_loop, "FEWEST_OF_A_WORKER", 20)
        threads(2)
        problem, passes = mixed_table(), []
        problem.backbone.module.register_forward_hook(lambda *_: passes.append(time.sleep(0.02)))

        def interrupt(_):
            raise KeyboardInterrupt

        refining = Refining(eta=1e-6, tau=1e-3, max_epochs=100_000, device="cpu")
        with pytest.raises(KeyboardInterrupt):
            refine(problem.frame, problem.backbone, refining, on_progress=interrupt)
        assert len(passes) < 100
        assert torch.get_num_threads() == 2

    def test_what_was_cancelled_is_as_observed_or_on_its_way(self, threads, monkeypatch):
        monkeypatch.setattr(rows_loop, "FEWEST_OF_A_WORKER", 20)
        threads(2)
        problem = mixed_table()
        result = refine(problem.frame, problem.backbone, Refining(tau=0.01, deadline=0.0, device="cpu"))
        assert result.totals.interrupted
        again = refine(problem.frame, problem.backbone, Refining(tau=0.01, device="cpu"))
        assert not again.totals.interrupted

    def test_a_backbone_of_a_users_works_alone(self, threads, monkeypatch):
        monkeypatch.setattr(rows_loop, "FEWEST_OF_A_WORKER", 20)
        threads(2)
        problem, seen = mixed_table(), set()

        class Watched(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                seen.add(threading.current_thread())
                return self.inner(x)

        backbone = fitted(problem.frame, problem.schema, Watched(problem.backbone.module))
        refine(Linear(problem.frame, problem.schema, backbone).frame, backbone, Refining(device="cpu"))
        assert seen == {threading.main_thread()}
