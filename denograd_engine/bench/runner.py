"""Working off a grid: what is there already is not computed again, and a failure ends its own cell only."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from denograd_engine.bench import records
from denograd_engine.bench.case import contaminate
from denograd_engine.bench.grid import Cell, Grid, Subject
from denograd_engine.bench.methods import resolve
from denograd_engine.bench.optional import library
from denograd_engine.bench.protocols import measure
from denograd_engine.bench.records import Result
from denograd_engine.errors import DenogradError
from denograd_engine.user_code import described

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

Report = Callable[[Cell, Result, bool], None]
"""Told of each cell that is there: its result, and whether it was there before."""


@dataclass(frozen=True)
class Counts:
    """How a run over a grid went, in cells."""

    computed: int
    reused: int
    failed: int


def run(grid: Grid, folder: Path, jobs: int | None = None, report: Report = lambda *_: None) -> Counts:
    """Measure every cell of a grid whose result is not in the folder yet; failed ones are tried again.

    An interrupt leaves what is finished.

    Args:
        grid: What to measure.
        folder: Where results are kept, one file a cell.
        jobs: Processes side by side, each with one thread; None takes one for each core. A single job works in this
            process.
        report: Told of each cell.
    """
    todo, reused = deque[Cell](), 0
    for cell in grid.cells:
        result = records.read(folder, cell)
        if result is None or result.failed:
            todo.append(cell)
        else:
            reused += 1
            report(cell, result, True)
    failed, pending = 0, len(todo)
    jobs = min(jobs or cores(), pending)
    for cell, result in _alone(grid, folder, todo) if jobs <= 1 else _side_by_side(grid, folder, todo, jobs):
        failed += result.failed
        report(cell, result, False)
    return Counts(pending - failed, reused, failed)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute(subject: Subject, cell: Cell) -> Result:
    """Measure one cell; whatever goes wrong is its result."""
    try:
        trial = contaminate(subject.case, cell.noise, cell.seed)
        return Result(measure(trial, resolve(cell.method, subject.recipe), cell.seed, subject.models))
    except DenogradError as error:
        return Result({}, str(error))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Result({}, f"{described(error)}\n  where: {last.filename}, line {last.lineno}")


def _alone(grid: Grid, folder: Path, todo: deque[Cell]) -> Iterator[tuple[Cell, Result]]:
    with _one_thread():
        for cell in todo:
            result = compute(grid.subjects[cell.subject], cell)
            records.write(folder, cell, result)
            yield cell, result


class _Worker:
    """A process that measures one cell after another, and the one that it is at."""

    def __init__(self, grid: Grid, folder: Path) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, grid.subjects, folder), daemon=True)
        self.process.start()
        theirs.close()
        self.cell: Cell | None = None

    def give(self, cell: Cell) -> None:
        self.cell = cell
        self.pipe.send(cell)

    def take(self) -> tuple[Cell, Result]:
        """The cell that was given, and its result; if the process died over it, that."""
        assert self.cell is not None
        cell, self.cell = self.cell, None
        try:
            return cell, self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            died = f"the process died over it (exit code {self.process.exitcode}); out of memory?"
            return cell, Result({}, died)

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _side_by_side(grid: Grid, folder: Path, todo: deque[Cell], jobs: int) -> Iterator[tuple[Cell, Result]]:
    workers: list[_Worker] = []
    try:
        while todo or any(worker.cell for worker in workers):
            while todo and len(workers) < jobs:
                workers.append(_Worker(grid, folder))
            for worker in workers:
                if worker.cell is None and todo:
                    worker.give(todo.popleft())
            for ready in wait([worker.pipe for worker in workers if worker.cell]):
                worker = next(one for one in workers if one.pipe is ready)
                cell, result = worker.take()
                if worker.process.exitcode is not None:
                    worker.end()
                    workers.remove(worker)
                    records.write(folder, cell, result)
                yield cell, result
    finally:
        for worker in workers:
            worker.end()


def _work(pipe: Connection, subjects: tuple[Subject, ...], folder: Path) -> None:
    """Measure what comes down the pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    with _one_thread():
        while True:
            try:
                cell: Cell = pipe.recv()
                result = compute(subjects[cell.subject], cell)
                records.write(folder, cell, result)
                pipe.send(result)
            except (EOFError, OSError):
                return


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch and for the linear algebra of numpy, as before afterwards."""
    import torch

    threads, limits = torch.get_num_threads(), library("threadpoolctl")
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        stack.enter_context(limits.threadpool_limits(1))
        torch.set_num_threads(1)
        torch.optim.AdamW([torch.zeros(1)])  # what torch imports for the first one is not the first method's time
        yield
