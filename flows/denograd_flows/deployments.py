"""Commands that have a Prefect server start the flows: on a schedule, after drift, or when asked in its UI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denograd_flows.options import EXIT_CODES, AsJson, Verbose
from denograd_flows.shell import opened

if TYPE_CHECKING:
    from denograd_flows.deploying import Change
    from denograd_flows.shell import Shell

Config = Annotated[Path, typer.Argument(help="The configuration.")]
CONFIG = Path("denograd.yaml")


def register(app: typer.Typer) -> None:
    """Make the commands of this module commands of the app."""
    for command in (deploy, undeploy, serve):
        app.command(epilog=f"Example: `denograd {command.__name__} denograd.yaml`. {EXIT_CODES}")(command)


def deploy(
    config: Config = CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Have workers run this configuration: on its schedule, after drift, or when asked in Prefect's UI.

    Deploying again changes what the configuration changed, and nothing else.
    """
    with opened(as_json, verbose) as shell:
        from denograd_tasks.settings import load_settings

        settings = load_settings(config)
        shell.prepare()
        from denograd_flows import deploying

        changes = deploying.deploy(settings, settings.work_pool, dry_run)
        if dry_run and not as_json:
            shell.say(f"{settings.dataset}: what deploying would do")
        _show(shell, changes)


def undeploy(config: Config = CONFIG, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Remove the deployments and automations of this configuration; what was published stays."""
    with opened(as_json, verbose) as shell:
        from denograd_tasks.settings import load_settings

        settings = load_settings(config)
        shell.prepare()
        from denograd_flows import deploying

        _show(shell, deploying.undeploy(settings))


def serve(config: Config = CONFIG, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Deploy this configuration and run it here, without a work pool, until Ctrl-C."""
    with opened(as_json, verbose) as shell:
        from denograd_tasks.settings import load_settings

        settings = load_settings(config)
        shell.prepare()
        from prefect import serve as run_here

        from denograd_flows import deploying

        _show(shell, deploying.deploy(settings, None))
        os.environ.update(deploying.SIGNS_OF_LIFE)
        run_here(*deploying.served(settings), print_starting_message=False)


def _show(shell: Shell, changes: list[Change]) -> None:
    if shell.as_json:
        shell.result([change.model_dump() for change in changes])
    else:
        for change in changes:
            shell.say(f"  {change.action:<9}  {change.what:<10}  {change.name}")
        if not changes:
            shell.say("There is nothing to remove.")
