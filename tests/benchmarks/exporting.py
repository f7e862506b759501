"""How long does it take to export a large version, and how much memory?

    python -m tests.benchmarks.exporting
    python -m tests.benchmarks.exporting --quick

A version of `--rows` rows and 20 columns (an identifier and 19 numbers) goes into each format, in a process of its own,
and the CSV once more from an object store: a server of its protocol on this machine.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table as Printed

from denograd_tasks.exporting import export
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.versions import commit, resolve
from tests.benchmarks import machine
from tests.benchmarks.audit import write
from tests.benchmarks.memory import watched
from tests.benchmarks.peer import BENCH

FOLDER = BENCH / "exporting"
DATA = "large/data/x/part-00000.parquet"
S3 = "s3://bucket/published"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def publish(root: str, local: Path, rows: int) -> None:
    """Make the file a version."""
    store = Store(root)
    store.create(DATA, local)
    file = {"path": DATA, "sha256": sha256_of(local), "bytes": local.stat().st_size, "rows": rows}
    commit(store, "large", {"identity": "x", "files": [file]})


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """The environment that leads to a server with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys).create_bucket(
        Bucket="bucket"
    )
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        **{name.upper(): value for name, value in keys.items()},
    }
    server.stop()


def measure(root: str, to: Any) -> dict[str, Any]:
    """Export in this process."""
    store = Store(root)
    manifest, output = resolve(store, "large"), FOLDER / f"out.{to}"
    with watched() as peak:
        started, busy = time.perf_counter(), time.process_time()
        done = export(store, manifest, to, output, force=True)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    return {
        "to": to,
        "root": root,
        "rows": done.rows,
        "bytes": sum(path.stat().st_size for path in files),
        "seconds": seconds,
        "busy": busy,
        "above": peak.most - peak.before,
    }


@app.command()
def main(
    rows: Annotated[int, typer.Option(min=1000, metavar="N", help="Of the version.")] = 10_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="A small table, to see whether everything runs.")] = False,
    one: Annotated[tuple[str, str] | None, typer.Option(hidden=True)] = None,
    to: Annotated[
        Path,
        typer.Option("--json", metavar="PATH", show_default=".bench/exporting.json", help="Where the figures go."),
    ] = BENCH / "exporting.json",
) -> None:
    """Export a large version, and say how long it took and how much memory."""
    if one is not None:
        json.dump(measure(*one), sys.stdout)
        return
    console = Console(width=None if Console().is_terminal else 200)
    found, rows, local = [], 100_000 if quick else rows, FOLDER / "large.parquet"
    root = str(FOLDER / "published")
    try:
        write(local, np.arange(rows), True)
        publish(root, local, rows)
        with object_store() as remote:
            os.environ.update(remote)
            publish(S3, local, rows)
            for given in ((root, "csv"), (root, "arrow"), (root, "delta"), (S3, "csv")):
                command = [sys.executable, "-m", "tests.benchmarks.exporting", "--one", *given]
                found.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        size = local.stat().st_size
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    printed = Printed("to", "from", "rows", "written", "seconds", "processor s", "memory")
    for each in found:
        source = "object store" if each["root"] == S3 else "disk"
        times = [f"{each[name]:.1f}" for name in ("seconds", "busy")]
        written, memory = (f"{each[name] / 1e6:,.0f} MB" for name in ("bytes", "above"))
        printed.add_row(each["to"], source, f"{each['rows']:,}", written, *times, memory)
    console.print(printed)
    described = machine.describe(torch.device("cpu"))
    console.print(f"Parquet of {size / 1e6:,.0f} MB. {machine.in_words(described)}.")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({"machine": described, "bytes": size, "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    app()
