"""What do orchestration and tracking add to a run?

    make stack, and export what it says; then
    python -m tests.benchmarks.orchestration
    python -m tests.benchmarks.orchestration --quick

A clean run against the servers, `denograd run`, takes turns with a process that makes the same calls of the engine
bare: read, fit, refine, measure the fidelity, write. Both have the same data, settings and seed, other data and another
seed in each repetition, so that nothing is reused, and must come to the same table. What the run takes beyond the bare
calls is all that stands around the engine: the start of Prefect and MLflow, flow, tasks and results, tracking,
registration and export of the model and its comparison with the champion, both validations, the report, and
publication. What each stage took is as the Prefect server has it. Seconds of processors are those of the process alone,
which other work on the machine hardly changes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table as Printed

from denograd_engine import Training, infer_schema, measure_fidelity, refine, train
from tests.benchmarks import machine
from tests.benchmarks.peer import BENCH
from tests.benchmarks.watch import table

FIXED, SHARE = 5.0, 0.05
"""Seconds, and share of the compute, that a run may take besides."""
SERVERS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
BESIDE = {
    "ingest": "read",
    "check_input": None,
    "train_backbone": "fit",
    "refine": "refine",
    "check_fidelity": "fidelity",
    "report": None,
    "publish": "write",
}
"""The stages, and which of the bare calls does the same."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def bare(source: Path, seed: int, to: Path) -> dict[str, float]:
    """Seconds of each call."""
    since, took = time.perf_counter(), {}

    def lap(name: str) -> None:
        nonlocal since
        now = time.perf_counter()
        took[name], since = now - since, now

    frame = pq.read_table(source).to_pandas()
    lap("read")
    backbone = train(frame, infer_schema(frame, target="y"), training=Training(seed=seed))
    lap("fit")
    refined = refine(frame, backbone)
    lap("refine")
    measure_fidelity(frame, refined.frame, backbone.encoder)
    lap("fidelity")
    refined.frame.to_parquet(to, index=False)
    lap("write")
    return took


def timed(folder: Path, module: str, *arguments: object) -> tuple[dict[str, float], Any]:
    """Seconds of a process, by the clock and of processors, and what it answers."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"DENOGRAD_HOME": str(folder / "home")}, check=False
    )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "processor": worked}, json.loads(done.stdout)


def stages(folder: Path, dataset: str) -> dict[str, float]:
    """Seconds of the flow run that published the newest version, and of its stages."""
    newest = max((folder / "home" / "published" / dataset / "versions").iterdir())
    run, address = json.loads(newest.read_text())["run"]["flow_run_id"], os.environ["PREFECT_API_URL"]
    until = time.monotonic() + 30
    while True:  # the server counts task runs from events, a little later
        asked = {"flow_runs": {"id": {"any_": [run]}}}
        tasks = httpx.post(f"{address}/task_runs/filter", json=asked).raise_for_status().json()
        found = {
            stage: one["total_run_time"] for one in tasks for stage in BESIDE if one["name"].startswith(f"{stage}-")
        }
        if len(found) == len(BESIDE) and all(found.values()):
            break
        if time.monotonic() > until:
            sys.exit(f"the Prefect server knows nothing of the stages of flow run {run}")
        time.sleep(0.5)
    whole: float = httpx.get(f"{address}/flow_runs/{run}").raise_for_status().json()["total_run_time"]
    return found | {"all of it": whole}


def turn(folder: Path, rows: int, seed: int) -> dict[str, Any]:
    """Both, with this seed."""
    pq.write_table(table(rows, seed), folder / "data.parquet")
    config, alone = folder / "denograd.yaml", folder / "refined.parquet"
    dataset = f"orchestration-{os.getpid()}"
    plain = {"dataset": dataset, "source": "data.parquet", "columns": {"target": "y"}, "seed": seed}
    config.write_text(json.dumps(plain | {"gates": {"skill": {"min": -1}}}))
    run, outcome = timed(folder, "denograd_flows", "run", config, "--json")
    script, took = timed(
        folder, "tests.benchmarks.orchestration", "--bare", folder / "data.parquet", "--seed", seed, "--to", alone
    )
    if not pq.read_table(outcome["path"]).to_pandas().equals(pq.read_table(alone).to_pandas()):
        sys.exit("the run and the bare calls came to different tables")
    return {"run": run, "bare": script, "stages": stages(folder, dataset), "calls": took}


def of_all(turns: Sequence[dict[str, Any]], part: str, name: str) -> float:
    """The median over the repetitions."""
    return median(turn[part][name] for turn in turns)


@app.command()
def main(
    rows: Annotated[int, typer.Option(min=1000, metavar="N", help="Of 20 columns.")] = 24_000,
    repetitions: Annotated[int, typer.Option(min=1, metavar="N", help="After one that does not count.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Few rows, once, to see whether everything runs.")] = False,
    alone: Annotated[Path | None, typer.Option("--bare", hidden=True)] = None,
    seed: Annotated[int, typer.Option(hidden=True)] = 0,
    to: Annotated[
        Path, typer.Option("--json", "--to", metavar="PATH", show_default=".bench/orchestration.json", help="Figures.")
    ] = BENCH / "orchestration.json",
) -> None:
    """Run with and without everything around the engine, and say what that costs."""
    if alone is not None:
        json.dump(bare(alone, seed, to), sys.stdout)
        return
    if absent := [name for name in SERVERS if name not in os.environ]:
        sys.exit(f"{' and '.join(absent)} must be set: the servers are what is measured")
    folder, rows, repetitions = BENCH / "orchestration", *((2_000, 1) if quick else (rows, repetitions))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        turns = [turn(folder, rows, each) for each in range(1 + repetitions)][1:]
    finally:
        shutil.rmtree(folder)
    printed = Printed("seconds", "run", "bare", "more")
    whole, worked = ([of_all(turns, which, unit) for which in ("run", "bare")] for unit in ("seconds", "processor"))
    for stage, call in BESIDE.items():
        here, there = of_all(turns, "stages", stage), of_all(turns, "calls", call) if call else 0.0
        printed.add_row(stage, f"{here:.2f}", f"{there:.2f}" if call else "", f"{here - there:+.2f}")
    within = of_all(turns, "stages", "all of it") - sum(of_all(turns, "stages", stage) for stage in BESIDE)
    compute = median(sum(each["calls"].values()) for each in turns)
    around = (whole[0] - of_all(turns, "stages", "all of it"), whole[1] - compute)
    printed.add_row("between the stages", f"{within:.2f}", "", f"{within:+.2f}")
    printed.add_row("before and after", *(f"{one:.2f}" for one in around), f"{around[0] - around[1]:+.2f}")
    for name, (here, there) in {"the whole process": whole, "of processors": worked}.items():
        printed.add_row(name, f"{here:.2f}", f"{there:.2f}", f"{here - there:+.2f}")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(printed)
    described, allowed = machine.describe(torch.device("cpu")), FIXED + SHARE * compute
    more = whole[0] - whole[1]
    tracked = more - sum(of_all(turns, "stages", stage) for stage, call in BESIDE.items() if call is None)
    console.print(
        f"{more:.1f} s more than the bare calls, which compute for {compute:.1f} s; {tracked:.1f} s without "
        f"the check of the input and the report. Orchestration and tracking are to be at most {FIXED:g} s and "
        f"{SHARE:.0%} of the compute, {allowed:.1f} s. Medians of {len(turns)}. {machine.in_words(described)}."
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": described, "rows": rows, "allowed": allowed, "turns": turns}
    to.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app()
