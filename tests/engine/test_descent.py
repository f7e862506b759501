"""How an item ended, when a refinement stops, and what it tells of its progress."""

from __future__ import annotations

import pytest
import torch

from denograd_engine.descent import Progress, Status, Stop, final_status


class TestFinalStatus:
    @pytest.mark.parametrize(
        ("iterations", "before", "after", "crossed", "stalled", "interrupted", "expected"),
        [
            (0, 0.05, 0.05, False, False, False, Status.WITHIN_GATE),
            (0, 0.05, 0.05, False, False, True, Status.WITHIN_GATE),
            (0, 3.0, 0.05, False, False, False, Status.CONVERGED),
            (4, 3.0, 0.05, False, False, False, Status.CONVERGED),
            (4, 3.0, 0.05, True, False, True, Status.CONVERGED),
            (4, 3.0, 0.5, True, False, False, Status.OSCILLATING),
            (4, 3.0, 0.5, False, False, False, Status.MAX_EPOCHS),
            (4, 3.0, 0.5, False, False, True, Status.INTERRUPTED),
            (0, 3.0, 3.0, False, True, False, Status.STALLED),
            (0, float("nan"), float("nan"), False, True, True, Status.STALLED),
        ],
    )
    def test_follows_from_how_an_item_moved(self, iterations, before, after, crossed, stalled, interrupted, expected):
        (found,) = final_status(
            torch.tensor([iterations]),
            torch.tensor([[before, 0.0]]),
            torch.tensor([[0.0, -after]]),
            torch.tensor([crossed]),
            torch.tensor([stalled]),
            0.1,
            interrupted,
        )
        assert Status(int(found)) is expected

    def test_labels_are_words(self):
        assert [one.label for one in Status][:2] == ["within_gate", "converged"]


class TestStop:
    def test_goes_on_unless_told_otherwise(self):
        assert not Stop().now()
        assert not Stop(deadline=1e6, cancelled=lambda: False).now()

    def test_a_deadline_or_the_caller_stops_it(self):
        assert Stop(deadline=-1.0).now()
        assert Stop(cancelled=lambda: True).now()

    def test_once_stopped_the_caller_is_not_asked_again(self):
        answers = iter([False, True])
        stop = Stop(cancelled=lambda: next(answers))
        assert [stop.now() for _ in range(4)] == [False, True, True, True]


class TestReport:
    def test_is_passed_on_as_it_is_where_all_rows_go_together(self):
        seen = []
        stop = Stop(on_progress=seen.append)
        stop.report(Progress(0.5, 3, 10))
        stop.span(0, 10, 10)
        stop.report(Progress(0.7, 2, 10))
        assert seen == [Progress(0.5, 3, 10), Progress(0.7, 2, 10)]

    def test_of_a_part_is_put_in_its_place(self):
        seen = []
        stop = Stop(on_progress=seen.append)
        stop.span(20, 40, 100)
        stop.report(Progress(0.5, 3, 20))
        assert seen == [Progress(0.3, 63, 100)]

    def test_goes_nowhere_where_nobody_listens(self):
        Stop().report(Progress(0.5, 3, 10))
