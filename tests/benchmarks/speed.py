"""How fast is the engine, beside what no implementation can do without, and beside the published package?

    python -m tests.benchmarks.speed
    python -m tests.benchmarks.speed --only table --only dlinear
    python -m tests.benchmarks.speed --quick
    python -m tests.benchmarks.speed --markdown

Each work is done by our `refine`, frame in and frame out, by releases 1.1.0 and 2.0.0 of the PyPI package `denograd`,
and by the floor: forward, and backward to the input alone, on inputs that lie ready, at the best batch size. All have
the same weights, data and threads. They take turns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from tests.benchmarks import machine, report
from tests.benchmarks.clock import Contestant, Failed, take_turns, timed
from tests.benchmarks.contestants import Guarded, ours, peers
from tests.benchmarks.floor import find_floor
from tests.benchmarks.peer import BENCH
from tests.benchmarks.works import Work, available, works

PUBLISHED_BATCH = 1000
"""Default of the published package."""
LONGEST_END = 60.0
"""Seconds that a peer may be expected to take to its own end; otherwise that is not tried."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def compare(work: Work, repetitions: int, device: torch.device, batch_size: int) -> dict[str, Any]:
    """Time everyone on one work."""
    rivals = peers(work, device, batch_size)
    floor = find_floor(work.module(), work.inputs(), device)
    claims = {claim.title: claim for claim in work.claims if available(claim) is None}
    entrants: dict[str, Contestant] = {title: ours(work, claim, device, batch_size) for title, claim in claims.items()}
    everyone = {**entrants, "the floor": floor, **rivals}
    timings = take_turns(everyone, work.epochs, tuple(entrants), repetitions, device)
    found = {name: timing.plain() for name, timing in timings.items()}
    if work.to_the_end:
        for name, rival in rivals.items():
            found[name].update(_own_end(rival, found[name], work, device))
    return {
        "name": work.name,
        "shape": work.shape,
        "items": work.items,
        "epochs": work.epochs,
        "tau": work.tau,
        "to_the_end": work.to_the_end,
        "floor": {**found["the floor"], "batch_size": floor.batch_size, "grid": floor.grid},
        "peers": {name: found[name] for name in rivals},
        "claims": [
            {"title": title, "floor_at_most": claim.floor_at_most, "faster": dict(claim.faster), **found[title]}
            for title, claim in claims.items()
        ],
    }


def measure(
    names: list[str],
    repetitions: int,
    device: torch.device,
    batch_size: int = PUBLISHED_BATCH,
    quick: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Do the works of these names, or all of them, and report what was found."""
    compared, left_out = [], []
    for work in works():
        if names and work.name not in names:
            continue
        missing = work.missing()
        if missing:
            left_out.append({"name": work.name, "why": missing})
            continue
        chosen = work.tiny() if quick else work
        unavailable = [(claim.title, available(claim)) for claim in work.claims]
        left_out += [{"name": f"{work.name} ({title})", "why": why} for title, why in unavailable if why]
        if console is not None:
            console.print(f"{chosen.name}: {chosen.shape} ...", style="dim")
        compared.append(compare(chosen, repetitions, device, batch_size))
    settings = {"repetitions": repetitions, "device": str(device), "peer_batch_size": batch_size, "quick": quick}
    return {"machine": machine.describe(device), "settings": settings, "works": compared, "left_out": left_out}


@app.command(epilog="Examples:  python -m tests.benchmarks.speed --only table --only dlinear")
def main(
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A work; may be given again.")] = None,
    repetitions: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds in which all take their turn.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of torch; default: its own.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    peer_batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of the published package and of our class DenoGrad.")
    ] = PUBLISHED_BATCH,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny data, to see whether everything runs.")] = False,
    to: Annotated[
        Path, typer.Option("--json", metavar="PATH", show_default=".bench/speed.json", help="Where all repetitions go.")
    ] = BENCH / "speed.json",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Measure nothing: print the README's table from what --json holds.")
    ] = False,
) -> None:
    """Compare the engine with the floor and with the published package.

    \b
    python -m tests.benchmarks.speed                      all works
    python -m tests.benchmarks.speed --only table         one of them
    python -m tests.benchmarks.speed --quick              does everything run?
    python -m tests.benchmarks.speed --threads 1          as a worker beside others
    python -m tests.benchmarks.speed --markdown           the README's table, from the last run
    """
    if markdown:
        if not to.exists():
            raise typer.BadParameter(f"{to} does not exist: run without --markdown first", param_hint="--json")
        print(report.markdown(json.loads(to.read_text())))
        return
    names = [work.name for work in works()]
    for name in only or []:
        if name not in names:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(names)}", param_hint="--only")
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(width=None if Console().is_terminal else 200)
    found = measure(only or [], repetitions, torch.device(device), peer_batch_size, quick, console)
    report.show(found, console)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"All repetitions are in {to}.")


def _own_end(rival: Guarded, timing: dict[str, Any], work: Work, device: torch.device) -> dict[str, Any]:
    """A single run until the peer itself stops, as its steps may be longer than ours."""
    if timing["error"] or timing["seconds"][0] / timing["epochs"][0] * work.epochs > LONGEST_END:
        return {}
    try:
        seconds, epochs = timed(rival, work.epochs, device)
    except Failed:
        return {}
    return {"to_its_end": {"seconds": seconds, "epochs": epochs}}


if __name__ == "__main__":
    app()
