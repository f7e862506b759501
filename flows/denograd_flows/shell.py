"""Where the command's results and messages go, and what becomes of errors."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from denograd_engine.errors import ConfigError, DataError, DenogradError, GateRefused

WIDTH_OF_FILES = 140
"""Columns of the output where it is no terminal."""
SOON = 0.05
"""Seconds after which an interrupt that was lost comes again."""


class Shell:
    """Where results and messages go."""

    def __init__(self, as_json: bool, verbose: bool) -> None:
        self.as_json, self.verbose = as_json, verbose

    def prepare(self) -> None:
        """Set up the environment of runs, before Prefect is imported, and end what killed runs left."""
        from denograd_flows.environment import prepare
        from denograd_flows.leftovers import end_orphaned_servers

        prepare(self.verbose)
        end_orphaned_servers()

    def result(self, plain: Any) -> None:
        typer.echo(json.dumps(plain, indent=1, default=str))

    def show(self, found: Any, view: Callable[[Any], Any]) -> None:
        """Print a dataclass: as JSON, or as the view makes of it."""
        if self.as_json:
            from pydantic import TypeAdapter

            self.result(json.loads(TypeAdapter(type(found)).dump_json(found)))
        else:
            from denograd_flows.audit_view import print_view

            print_view(view(found), self._console())

    def say(self, text: str) -> None:
        typer.echo(text)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show the stages as they run, once Prefect answers; on stderr if stdout is for JSON."""
        from denograd_flows.live import LiveView
        from denograd_flows.servers import require_prefect
        from denograd_tasks.progress import listening

        require_prefect()
        with LiveView(self._console()) as view, listening(view):
            view.started("Start Prefect")
            yield

    @contextmanager
    def following(self) -> Iterator[None]:
        """Show what is told of the work, which needs no Prefect; on stderr if stdout is for JSON."""
        from denograd_flows.live import LiveView
        from denograd_tasks.progress import listening

        with LiveView(self._console()) as view, listening(view):
            yield

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show in a terminal how many of so many rows are done, as the caller tells."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        shown = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} rows"))
        with Progress(
            *shown, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)

    def outcome(self, outcome: Any) -> None:
        from denograd_flows.summary import print_outcome

        if self.as_json:
            self.result(outcome.model_dump(mode="json"))
        else:
            print_outcome(outcome, self._console())

    def heading(self, text: str) -> None:
        self._console().print(f"\n[bold]{text}[/bold]", highlight=False)

    def plan(self, dataset: str, steps: list[Any]) -> None:
        from denograd_flows.summary import print_plan

        print_plan(dataset, steps, self._console())

    def versions(self, rows: list[dict[str, Any]]) -> None:
        from denograd_flows.summary import print_versions

        print_versions(rows, self._console())

    def manifest(self, manifest: Any) -> None:
        from denograd_flows.summary import print_manifest

        print_manifest(manifest, self._console())

    def benchmark(self, measure: Callable[[Any], Any]) -> Any:
        from denograd_flows.bench import print_benchmark

        outcome = measure(self._console())
        self.result(outcome.plain()) if self.as_json else print_benchmark(outcome, self._console())
        return outcome

    def findings(self, findings: list[Any]) -> None:
        from denograd_flows.summary import print_findings

        print_findings(findings, self._console())

    def farewell(self, outcomes: list[Any]) -> None:
        from denograd_flows.summary import print_farewell

        print_farewell(outcomes, self._console())

    def _console(self) -> Any:
        from rich.console import Console

        console = Console(stderr=self.as_json)
        return console if console.is_terminal else Console(stderr=self.as_json, width=WIDTH_OF_FILES)


def repeat_lost_interrupts() -> None:
    """An interrupt that lands where Python can raise nothing, such as in a finaliser, comes again a moment later."""
    report = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            report(lost)
            return
        again = threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


@contextmanager
def opened(as_json: bool, verbose: bool) -> Iterator[Shell]:
    """Turn errors into a message and an exit code."""
    made = Shell(as_json, verbose)
    try:
        yield made
    except (typer.Exit, SystemExit):
        raise
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a further press would end the clean-up at exit half-way
        exec("")  # makes Python forget that it was interrupted in a text, such as a dataclass's: it would end by SIGINT
        typer.secho("Interrupted. The next run goes on after the last finished stage.", err=True)
        raise typer.Exit(130) from None
    except Exception as raised:
        if verbose:
            raise
        from denograd_flows.failures import named

        error = named(raised)
        code = _exit_code(error)
        if isinstance(error, GateRefused) and hasattr(error, "outcome"):
            made.outcome(error.outcome)
            raise typer.Exit(code) from None
        if as_json:
            made.result({"status": "failed", "exit_code": code, "error": type(error).__name__, **_plain(error)})
        typer.secho(_message(error), err=True, fg="red" if sys.stderr.isatty() else None)
        raise typer.Exit(code) from None


def _exit_code(error: Exception) -> int:
    if isinstance(error, (ConfigError, DataError)):
        return 2
    return 3 if isinstance(error, GateRefused) else 1


def _message(error: Exception) -> str:
    """The error for people; an unexpected one may carry cell values in its text, which is left out."""
    if isinstance(error, DenogradError):
        return f"Error: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"Error: unexpected {type(error).__name__}\n  where: {last.filename}, line {last.lineno}\n"
        "  what to do: run again with --verbose to see the whole, and report it"
    )


def _plain(error: Exception) -> dict[str, Any]:
    if isinstance(error, DenogradError):
        return {
            "problem": error.problem,
            "expected": error.expected,
            "found": error.found,
            "where": error.where,
            "remedy": error.remedy,
        }
    return {"problem": _message(error)}
