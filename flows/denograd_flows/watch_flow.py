"""The flow `watch`: drift is noticed, and told as an event that has the data set cleaned again."""

from __future__ import annotations

from uuid import UUID, uuid5

from prefect import flow
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging import get_run_logger

from denograd_flows.automations import DRIFT
from denograd_flows.clean_flow import dataset_name
from denograd_flows.exclusion import alone
from denograd_flows.leftovers import sign_in
from denograd_tasks.home import sweep_scratch
from denograd_tasks.settings import Settings
from denograd_tasks.stages.watch import look, tell
from denograd_tasks.store import open_store
from denograd_tasks.versions import newest
from denograd_tasks.watch.bookmark import Alarm, Watched, write_bookmark
from denograd_tasks.watch.history import remember

MOST_TOLD = 1e6
"""Evidence in an event at most: whoever reads it need not cope with numbers of hundreds of digits."""
NAMESPACE = UUID("0c1f3f0a-6f7e-4a53-9f0b-64726966742e")


@flow(name="watch", flow_run_name=dataset_name, validate_parameters=True)
def watch(settings: Settings) -> Watched | None:
    """Compare what arrived since the last look with what the newest version was made from.

    A drift holds until a new version is published, and its event is emitted once; one that is killed between the event
    and its bookmark emits the same event again, under the same id.

    Args:
        settings: The configuration, from `load_settings` or built in code.

    Returns:
        None where nothing is published yet.

    Raises:
        StoreError: If what is needed of the newest version is missing or damaged.
        DataError: If the source cannot be used, or has not the columns that it had.
        ServiceError: If a service does not answer.
    """
    sign_in()
    store = open_store(settings.publish.root)
    if newest(store, settings.dataset) is None:
        get_run_logger().info("Nothing of %s is published yet, so there is nothing to compare with.", settings.dataset)
        return None
    with alone(f"watch {settings.dataset}", wait=True):
        sweep_scratch()
        looked = look(settings)
        if looked.raised and looked.watched.alarm is not None:
            _emit(looked.watched, looked.watched.alarm, looked.bookmark.version)
        remember(store, looked.watched, looked.raised)
        write_bookmark(store, settings.dataset, looked.bookmark)
    tell(looked.watched, looked.bookmark.version, settings)
    return looked.watched


def _emit(watched: Watched, alarm: Alarm, version: str) -> None:
    emitted = emit_event(
        event=DRIFT,
        resource={
            "prefect.resource.id": f"denograd.dataset.{watched.dataset}",
            "prefect.resource.name": watched.dataset,
        },
        payload={
            "version": watched.version,
            "severity": watched.severity,
            "evidence": min(alarm.evidence, MOST_TOLD),
            "columns": alarm.columns,
            "kinds": alarm.kinds,
        },
        id=uuid5(NAMESPACE, version),
    )
    if emitted is not None:
        EventsWorker.instance().wait_until_empty()  # the bookmark says that it was told
