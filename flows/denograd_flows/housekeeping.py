"""The commands that look after what no version holds: gc, quarantine, release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denograd_engine.errors import ConfigError
from denograd_flows.options import EXIT_CODES, AsJson, Root, Verbose
from denograd_flows.shell import opened

if TYPE_CHECKING:
    from denograd_tasks.refusals import Refusal
    from denograd_tasks.store import Store

EXAMPLES = {
    "gc": "Examples: `denograd gc parkinsons --dry-run` · `denograd gc --all --quarantine 90`",
    "quarantine": "Example: `denograd quarantine parkinsons`",
    "release": "Example: `denograd release parkinsons 683a86cd --reason 'a sensor was replaced: the step is real'`. "
    + EXIT_CODES,
}
Dataset = Annotated[str, typer.Argument(metavar="NAME", help="A data set.")]


@dataclass(frozen=True)
class Freed:
    """What was deleted, or would be.

    Attributes:
        dataset: The data set.
        files: How many files of it.
        bytes: Their size.
        kinds: Files in each of its folders.
        versions: Numbers of those whose data retention removed.
        results: Results that Prefect remembered on this machine and that led to nothing.
        busy: Whether a run was at work, so that nothing was looked at.
    """

    dataset: str
    files: int
    bytes: int
    kinds: Mapping[str, int]
    versions: tuple[int, ...]
    results: int
    busy: bool


def register(app: typer.Typer) -> None:
    """Make the commands of this module commands of the app."""
    for command in (gc, quarantine, release):
        app.command(epilog=EXAMPLES[command.__name__])(command)


def gc(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A data set.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every data set in the root.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    quarantined: Annotated[
        int | None,
        typer.Option("--quarantine", metavar="DAYS", min=0, help="Also results in quarantine for longer than that."),
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Delete what killed and failed runs left: what no version names, once it is older than any run can be.

    By the clock of the store that is a week and an hour. What a result in quarantine needs to be released stays, and so
    do published versions; where `publish.retention` is set, the last so many and all tagged ones keep their data, and
    older ones lose theirs, but neither manifest nor evidence.
    """
    with opened(as_json, verbose) as shell:
        if (name is None) != every:
            raise ConfigError("it is not said what to look after", expected="a data set, or --all")
        shell.prepare()
        from denograd_flows.library import published
        from denograd_flows.servers import require_prefect
        from denograd_tasks.home import left_scratch, sweep_scratch
        from denograd_tasks.litter import littered

        require_prefect()
        store = published(root)
        keep = None if quarantined is None else timedelta(days=quarantined)
        freed = [_freed(store, one, keep, dry_run) for one in (littered(store) if name is None else [name])]
        scratch = len(left_scratch()) if dry_run else sweep_scratch()
        if as_json:
            shell.result({"deleted": not dry_run, "datasets": [vars(one) for one in freed], "scratch": scratch})
            return
        for one in freed:
            shell.say(_in_words(one, "would free" if dry_run else "freed"))
        if scratch:
            shell.say(f"{scratch} scratch folders of killed runs")


def quarantine(name: Dataset, root: Root = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the refused results of a data set, and what refused them."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import published
        from denograd_tasks.refusals import refusals

        found = refusals(published(root), name)
        if as_json:
            shell.result([_plain(one) for one in found])
            return
        for one in found:
            shell.say(_line(one))
        if not found:
            shell.say(f"Nothing of {name} is in quarantine.")


def release(
    name: Dataset,
    attempt: Annotated[str, typer.Argument(metavar="ATTEMPT", help="The refused result, or how its name begins.")],
    reason: Annotated[str, typer.Option("--reason", help="Why it may be published; the manifest keeps it.")],
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Publish a refused result as the next version, against its verdict, which the manifest keeps."""
    with opened(as_json, verbose) as shell:
        if not reason.strip():
            raise ConfigError("a release needs a reason", where="--reason")
        shell.prepare()
        from denograd_flows.exclusion import alone
        from denograd_flows.library import published
        from denograd_flows.servers import require_prefect
        from denograd_tasks.refusals import find_refusal
        from denograd_tasks.refusals import release as release_refused

        require_prefect()
        store = published(root)
        with alone(name, wait=True):
            refusal = find_refusal(store, name, attempt)
            committed = release_refused(store, refusal, reason)
        manifest = committed.manifest
        if as_json:
            told = {"version": manifest.number, "manifest": manifest.digest, "already": committed.already}
            shell.result({"dataset": name, "attempt": refusal.attempt, **told})
        else:
            how = "already released as" if committed.already else "released as"
            shell.say(f"{refusal.attempt} {how} {name}@{manifest.number}, against {_failed(refusal)}")


def _freed(store: Store, dataset: str, keep: timedelta | None, dry_run: bool) -> Freed:
    from prefect.settings import get_current_settings

    from denograd_flows.exclusion import Occupied, alone
    from denograd_flows.library import kept_versions
    from denograd_tasks.litter import collect, litter_of
    from denograd_tasks.retention import outdated, retire
    from denograd_tasks.stale_results import stale_results

    try:
        with alone(dataset, wait=False):
            found, old = litter_of(store, dataset, keep), outdated(store, dataset, kept_versions(store, dataset))
            remembered = get_current_settings().results.local_storage_path
            results = stale_results(remembered, store.root, {*old.paths, *(one.path for one in found)})
            if not dry_run:
                collect(store, found)
                retire(store, dataset, old)
                store.sweep(dataset)
                store.prune(dataset)
                for path in results:
                    path.unlink(missing_ok=True)
    except Occupied:
        return Freed(dataset, 0, 0, {}, (), 0, busy=True)
    kinds = Counter([*(one.kind for one in found), *(path.split("/")[1] for path in old.paths)])
    freed = sum(one.bytes for one in found) + old.bytes
    return Freed(dataset, kinds.total(), freed, dict(sorted(kinds.items())), old.numbers, len(results), busy=False)


def _in_words(freed: Freed, verb: str) -> str:
    if freed.busy:
        return f"{freed.dataset}: a run is at work, left alone"
    kinds = ", ".join(f"{count} in {kind}" for kind, count in freed.kinds.items())
    files = f"{freed.files} files, {freed.bytes / 1e6:,.1f} MB" + (f" ({kinds})" if kinds else "")
    if freed.versions:
        files += f"; the data of {', '.join(f'@{number}' for number in freed.versions)} by retention"
    return f"{freed.dataset}: {verb} {files}" + (f"; {freed.results} remembered results" if freed.results else "")


def _line(refusal: Refusal) -> str:
    published = "" if refusal.version is None else f", released as version {refusal.version}"
    when = refusal.refused.strftime("%Y-%m-%d %H:%M")
    return f"{refusal.attempt}  {when}  {refusal.rows:,} rows, refused by {_failed(refusal)}{published}"


def _failed(refusal: Refusal) -> str:
    return "; ".join(f"{gate.name} {_number(gate.value)} ({gate.bound})" for gate in refusal.failed)


def _number(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.4g}"


def _plain(refusal: Refusal) -> dict[str, Any]:
    return {
        "attempt": refusal.attempt,
        "refused": refusal.refused.isoformat(),
        "rows": refusal.rows,
        "failed": [gate.model_dump() for gate in refusal.failed],
        "version": refusal.version,
    }
