"""Look at what arrived, and tell what was found."""

from __future__ import annotations

from prefect import task

from denograd_tasks.settings import Settings
from denograd_tasks.watch.bookmark import Watched
from denograd_tasks.watch.check import Looked, check
from denograd_tasks.watch.telling import in_markdown, log_metrics


@task(name="look", persist_result=False)
def look(settings: Settings) -> Looked:
    """Compare what arrived since the last look with the reference of the newest version.

    Raises:
        StoreError: If nothing is published, or what is needed of it is missing or damaged.
        DataError: If the source cannot be used, or has not the columns that it had.
    """
    return check(settings)


@task(name="tell", persist_result=False)
def tell(watched: Watched, version: str, settings: Settings) -> None:
    """Show the verdict in Prefect and MLflow.

    Args:
        watched: What was found.
        version: Digest of the manifest that was compared with.
        settings: The configuration.

    Raises:
        ServiceError: If MLflow does not answer.
    """
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(in_markdown(watched), key="watch", description=f"Drift of {settings.dataset}")
    log_metrics(settings, watched, version)
