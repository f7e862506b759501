"""The events of one run: START when its work begins, then COMPLETE, FAIL where an error or a gate ended it, or ABORT.

ABORT is for what was interrupted. Of a run that was killed, the next one of the data set on this machine tells it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from denograd_tasks.lineage_events.naming import place_of, published_place, refused_place
from denograd_tasks.progress import listener
from denograd_tasks.records import Quarantined, Record, Snapshot, Version
from denograd_tasks.refusals import INTENDED
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import null_counts
from denograd_tasks.versions import read_manifest

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    from denograd_tasks.lineage_events.events import DenogradRunFacet, RunFacts
    from denograd_tasks.lineage_events.sending import Sender


@contextmanager
def recorded(settings: Settings) -> Iterator[Recorder]:
    """Tell the events of a run. Whatever goes wrong with that is a warning, and the run goes on.

    To be entered by the only run of the data set.
    """
    recorder = Recorder(settings)
    recorder.started()
    try:
        yield recorder
    except BaseException as error:
        recorder.ended(error)
        raise
    recorder.ended(None)


class Recorder:
    """Remembers what a run comes to, and tells it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._snapshot: Snapshot | None = None
        self._result: Version | Quarantined | None = None
        self._run: RunFacts | None = None
        self._sender: Sender | None = None

    def saw(self, record: Record) -> None:
        """A stage is done."""
        if isinstance(record, Snapshot):
            self._snapshot = record
        elif isinstance(record, (Version, Quarantined)):
            self._result = record

    def started(self) -> None:
        """The run begins, and one that was killed before it has ended."""
        with _warned():
            from openlineage.client.event_v2 import InputDataset, RunState

            from denograd_tasks.lineage_events.events import RunFacts, run_event
            from denograd_tasks.lineage_events.sending import Sender

            self._run = _facts(self._settings)
            self._sender = Sender(self._settings.dataset, self._settings.lineage, _warn)
            if self._sender.mark.exists():
                killed = RunFacts(**json.loads(self._sender.mark.read_text()))
                self._sender.send(run_event(RunState.ABORT, killed, [], []))
            place = place_of(self._settings.source)
            self._sender.send(run_event(RunState.START, self._run, [InputDataset(place.namespace, place.name)], []))
            self._sender.mark.write_text(json.dumps(vars(self._run)))

    def ended(self, error: BaseException | None) -> None:
        """The run is done."""
        if self._run is None or self._sender is None:
            return
        with _warned():
            from openlineage.client.event_v2 import RunState

            from denograd_tasks.lineage_events.events import run_event

            state = RunState.COMPLETE
            if error is not None:
                state = RunState.FAIL if isinstance(error, Exception) else RunState.ABORT
            inputs, outputs, known = self._came_to()
            self._sender.send(run_event(state, self._run, inputs, outputs, known, error))
            self._sender.mark.unlink(missing_ok=True)
        with _warned():
            self._sender.close()

    def _came_to(self) -> tuple[list[InputDataset], list[OutputDataset], DenogradRunFacet | None]:
        """What is known of source and result."""
        from openlineage.client.event_v2 import InputDataset

        from denograd_tasks.lineage_events.datasets import result_of, source_dataset, source_of
        from denograd_tasks.lineage_events.events import particulars

        source = place_of(self._settings.source)
        if self._snapshot is None:
            return [InputDataset(source.namespace, source.name)], [], None
        store, result, manifest = open_store(self._settings.publish.root), self._result, None
        nulls = null_counts(store, [file.path for file in self._snapshot.files])
        if result is None:
            given = self._snapshot
            return [source_dataset(source, given.columns, given.digest, given.rows, (), nulls)], [], None
        if isinstance(result, Version):
            manifest = read_manifest(store, result.dataset, result.number)
            body, version, paths = (
                manifest.content,
                str(result.number),
                [one["path"] for one in manifest.content["files"]],
            )
            place = published_place(store.root, result.dataset)
            change = None if result.already else "CREATE" if result.number == 1 else "OVERWRITE"
        else:
            body = json.loads(store.read(result.file(INTENDED).path))
            paths, change = [result.files[0].path], "CREATE"
            place, version = refused_place(store.root, self._settings.dataset), paths[0].split("/")[-2]
        output = result_of(body, source, place, version, null_counts(store, paths), change)
        known = particulars(body, None if manifest is None else manifest.digest)
        return [source_of(body, source, nulls)], [output], known


def _facts(settings: Settings) -> RunFacts:
    from prefect.runtime import deployment, flow_run

    from denograd_tasks.lineage_events.events import RunFacts, instant

    name = flow_run.get_flow_name() or "clean"
    deployed = deployment.get_name()
    scheduled = flow_run.get_scheduled_start_time() if "auto-scheduled" in flow_run.get_tags() else None
    return RunFacts(
        namespace=settings.lineage.namespace,
        dataset=settings.dataset,
        flow_run=flow_run.get_id() or str(uuid.uuid4()),
        flow=f"{name}/{deployed}" if deployed else name,
        tried=flow_run.get_run_count(),
        scheduled=None if scheduled is None else instant(scheduled),
    )


@contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # no lineage is worth a run
        from denograd_tasks.lineage_events.events import in_words

        _warn(f"lineage events could not be written: {in_words(error)}")


def _warn(text: str) -> None:
    """Once where people look: in the terminal, and among the logs of the run."""
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    listener().warned(text)
    with suppress(MissingContextError):
        get_run_logger().warning(text)
