"""The `denograd` command: a thin shell over the flows, and over what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denograd_engine import __version__
from denograd_engine.errors import ConfigError
from denograd_flows import audit, catalog, deployments, exporting, housekeeping, versioning, watching
from denograd_flows.options import EXIT_CODES, AsJson, Named, Root, Verbose
from denograd_flows.shell import opened

app = typer.Typer(
    name="denograd",
    help="Repair noisy tables and series, and publish them as verified versions.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: `denograd init readings.csv --target temperature --time timestamp`")
def init(
    data: Annotated[Path, typer.Argument(help="A CSV, Parquet or Arrow file, or a folder of them.")],
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Column to predict; repeatable. Default: a guess.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Column of time stamps, if the rows form a series. Default: a guess.")
    ] = None,
    entity: Annotated[
        list[str] | None, typer.Option("--entity", help="Column that tells several series apart; repeatable.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Treat the rows as a table even if there is a time.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.")] = Path("denograd.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Look at the data, and write a configuration with every column's inferred role in it."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.starter import write_starter

        written = write_starter(data, output, target=target, time=time, entity=entity or (), table=table, force=force)
        if as_json:
            shell.result(written.plain())
        else:
            shell.say(f"Wrote {output}: {written.describe()}")
            shell.say("Check the roles of the columns in it, then: " + f"denograd run {output}")


@app.command(epilog=f"Examples: `denograd run denograd.yaml` · `denograd run denograd.yaml --dry-run`. {EXIT_CODES}")
def run(
    config: Annotated[Path, typer.Argument(help="The configuration; write one with `denograd init`.")] = Path(
        "denograd.yaml"
    ),
    model: Annotated[
        str | None,
        typer.Option("--model", help="Train none: refine with NAME@champion, NAME@N as published, or models:/NAME/3."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done and reused.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Clean the data and publish the next version, if every gate passes."""
    with opened(as_json, verbose) as shell:
        from denograd_tasks.settings import load_settings
        from denograd_tasks.sources import source_files

        settings = load_settings(config, **({} if model is None else {"model": model}))
        source_files(settings.source)
        shell.prepare()
        if dry_run:
            from denograd_flows.plan import plan

            steps = plan(settings)
            shell.result([step.model_dump() for step in steps]) if as_json else shell.plan(settings.dataset, steps)
            return
        from denograd_flows.clean_flow import clean

        with shell.watching():
            outcome = clean(settings)
        shell.outcome(outcome)


@app.command(epilog="Example: `denograd versions` · `denograd versions parkinsons --json`")
def versions(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this data set.")] = None,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List what is published."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import version_rows

        rows = version_rows(root, name)
        shell.result(rows) if as_json else shell.versions(rows)


@app.command(epilog="Example: `denograd show parkinsons@3`")
def show(name: Named, root: Root = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Show a version: its source, model, refinement and gates."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import find

        manifest = find(root, name)
        shell.result(manifest.content) if as_json else shell.manifest(manifest)


@app.command(epilog="Example: `python -c \"import pandas as pd; pd.read_parquet('$(denograd path parkinsons)')\"`")
def path(name: Named, root: Root = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Print the folder of a version's Parquet files."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import data_path

        found = data_path(root, name)
        shell.result({"path": found}) if as_json else typer.echo(found)


@app.command(epilog="Example: `denograd report parkinsons --open`")
def report(
    name: Named,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Print where the report of a version is, or open it."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import release_of, report_path

        found, released = report_path(root, name), release_of(root, name)
        if released:
            said = f"released by {released['by']}, {released['at']}, against its verdict: {released['reason']}"
            typer.echo(said, err=True)
        if open_it:
            typer.launch(found)
        shell.result({"report": found}) if as_json else typer.echo(found)


@app.command(epilog="Example: `denograd doctor denograd.yaml`")
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Also check the stores and servers named here.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what is installed, which device would be used, and which stores and servers answer."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.doctor import examine
        from denograd_tasks.settings import load_settings

        settings = load_settings(config) if config else None
        shell.prepare()
        findings = examine(settings)
        shell.result([one.model_dump() for one in findings]) if as_json else shell.findings(findings)
        if not all(one.ok for one in findings):
            raise typer.Exit(1)


@app.command(epilog="Example: `denograd demo --seed 1`")
def demo(
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise and the training.")] = 0,
    noise: Annotated[float, typer.Option("--noise", min=0.01, max=1.0, help="In std of each column.")] = 0.3,
    only: Annotated[str | None, typer.Option("--only", help="Just `table` or just `series`.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Clean a real table and a real series with known noise added, and show how much of it was removed."""
    with opened(as_json, verbose) as shell:
        if only not in (None, "table", "series"):
            raise ConfigError(f"--only {only} is neither demonstration", expected="table or series", where="--only")
        shell.prepare()
        from denograd_flows.demo import run_demo

        outcomes = []
        for title, demonstration in run_demo(seed, noise, only):
            shell.heading(title)
            with shell.watching():
                outcomes.append(demonstration())
            if not as_json:
                shell.outcome(outcomes[-1])
        if as_json:
            shell.result([outcome.model_dump(mode="json") for outcome in outcomes])
        else:
            shell.farewell(outcomes)


@app.command(
    epilog="Examples: `denograd bench denograd.yaml` · `denograd bench denograd.yaml --noise 0.1 --noise 0.3 "
    f"--method denograd --method pca --method methods.py:mine --models all`. {EXIT_CODES}"
)
def bench(
    config: Annotated[Path, typer.Argument(help="The configuration; its data are taken as the truth.")] = Path(
        "denograd.yaml"
    ),
    noise: Annotated[
        list[float] | None, typer.Option("--noise", help="In std of each column; repeatable. Default: 0.2.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="gaussian, heteroscedastic, laplace, spikes, autocorrelated; repeatable. Default: gaussian.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method, or a function such as file.py:mine; repeatable. Default: all."),
    ] = None,
    models: Annotated[str, typer.Option("--models", help="Downstream: quick, all, or names with commas.")] = "quick",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many splits and noises.")] = 3,
    rows: Annotated[
        int | None, typer.Option("--rows", min=100, help="At most so many. Default: 5,000; of a series 10,000 steps.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes. Default: one for each core.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where results are kept. Default: .denograd/bench/DATASET.")
    ] = None,
    unknown_noise: Annotated[bool, typer.Option("--unknown-noise", help="Do not tell methods its size.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Add noise of a known size to your data, let every method remove it, and say what each recovers."""
    with opened(as_json, verbose) as shell:
        shell.prepare()
        from denograd_flows.bench import Asked, run_bench
        from denograd_tasks.settings import load_settings

        asked = Asked(
            kinds=tuple(dict.fromkeys(kind or ["gaussian"])),
            stds=tuple(dict.fromkeys(noise or [0.2])),
            known=not unknown_noise,
            seeds=seeds,
            methods=tuple(method or ()),
            models=models,
            rows=rows,
            jobs=jobs,
            out=out,
        )
        outcome = shell.benchmark(lambda console: run_bench(load_settings(config), asked, console))
        if not outcome.worked:
            raise typer.Exit(1)


audit.register(app)
catalog.register(app)
deployments.register(app)
exporting.register(app)
housekeeping.register(app)
versioning.register(app)
watching.register(app)


def main() -> None:
    """The entry point."""
    from denograd_flows.parting import to_the_end
    from denograd_flows.shell import repeat_lost_interrupts

    repeat_lost_interrupts()
    to_the_end(app)
