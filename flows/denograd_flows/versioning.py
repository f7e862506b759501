"""The commands about one version: reproduce it, go back to it, give it a name."""

from __future__ import annotations

from typing import Annotated

import typer

from denograd_engine.errors import ConfigError
from denograd_flows.audit import NOT_AS_PUBLISHED
from denograd_flows.options import EXIT_CODES, AsJson, Named, Root, Verbose
from denograd_flows.shell import opened

EXAMPLES = {
    "reproduce": f"Examples: `denograd reproduce parkinsons@3` · `denograd reproduce parkinsons --json`. {EXIT_CODES}",
    "rollback": "Example: `denograd rollback parkinsons@2 --reason 'version 3 was made with a wrong noise'`",
    "tag": "Examples: `denograd tag parkinsons@3 quarterly-report` · `denograd path parkinsons@quarterly-report` · "
    "`denograd tag parkinsons quarterly-report --delete`",
}


def register(app: typer.Typer) -> None:
    """Make the commands of this module commands of the app."""
    for command in (reproduce, rollback, tag):
        app.command(epilog=EXAMPLES[command.__name__])(command)


def reproduce(name: Named, root: Root = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Run a version again from its snapshot, settings and model, and compare; nothing is published.

    On the same processor, versions and threads it comes out byte for byte; elsewhere within a tolerance, which is
    stated, with what differed. Only the published folder is needed, and code of yours that the version names.
    """
    with opened(as_json, verbose) as shell:
        shell.prepare()
        from denograd_flows.library import published
        from denograd_flows.versioning_view import reproduction
        from denograd_tasks.audit.reproduce import reproduce as run_again
        from denograd_tasks.versions import resolve

        store = published(root)
        manifest = resolve(store, name)
        with shell.following():
            found = run_again(store, manifest)
        shell.show(found, reproduction)
        if found.outcome == "different":
            raise typer.Exit(NOT_AS_PUBLISHED)


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME@N", help="The version to go back to.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; the manifest keeps it.")],
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Publish the content of an earlier version as the next version; history is never rewritten.

    What is appended later builds on it. A scheduled run in mode full publishes anew what it makes of its source.
    """
    with opened(as_json, verbose) as shell:
        from denograd_tasks.versions import parse_name

        dataset, at = parse_name(name)
        if at is None:
            raise ConfigError("it is not said what to go back to", expected="NAME@N, such as parkinsons@3", found=name)
        if not reason.strip():
            raise ConfigError("a rollback needs a reason", where="--reason")
        shell.prepare()
        from denograd_flows.exclusion import alone
        from denograd_flows.library import published
        from denograd_flows.servers import require_prefect
        from denograd_tasks.rollback import roll_back
        from denograd_tasks.versions import resolve

        require_prefect()
        store = published(root)
        resolve(store, name)
        with alone(dataset, wait=True):
            done = roll_back(store, resolve(store, name), reason)
        manifest, already = done.committed.manifest, done.committed.already
        if as_json:
            told = {"version": manifest.number, "manifest": manifest.digest, "already": already, "mlflow": done.told}
            shell.result({"dataset": dataset, "to": manifest.origin, **told})
            return
        how = "has this content already" if already else f"has the content of {dataset}@{manifest.origin}"
        shell.say(f"{dataset}@{manifest.number} {how}")
        if not done.told:
            typer.echo("MLflow was not told: it does not answer, or does not know the run.", err=True)


def tag(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME[@N]", help="A version; without a number, the newest. To delete, the data set."),
    ],
    tag: Annotated[str, typer.Argument(metavar="TAG", help="What to call it: NAME@TAG is the same as NAME@N.")],
    move: Annotated[bool, typer.Option("--move", help="Take the tag from the version that has it.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Take the tag away; the version stays.")] = False,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Give a version a name, which retention then keeps; `denograd versions` lists tags.

    A tag is no part of the manifest: it may be moved and deleted, and neither seal nor signature covers it.
    """
    with opened(as_json, verbose) as shell:
        if move and delete:
            raise ConfigError("a tag is moved or deleted", found="both", where="--move, --delete")
        from denograd_flows.library import published
        from denograd_tasks.retention import tag_version
        from denograd_tasks.tags import delete_tag
        from denograd_tasks.versions import parse_name, resolve

        store = published(root)
        dataset, _ = parse_name(name)
        found = delete_tag(store, dataset, tag) if delete else tag_version(store, resolve(store, name), tag, move)
        if as_json:
            shell.result({"dataset": dataset, "tag": found.name, "version": found.number, "deleted": delete})
        else:
            done = "is no longer tagged" if delete else "is tagged"
            shell.say(f"{dataset}@{found.number} {done} {found.name}")
