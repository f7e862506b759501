"""One look: what arrived is compared with the reference of the newest version, and adds to the evidence."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.errors import ConfigError
from denograd_tasks.append import model_of, schema_of_model
from denograd_tasks.rule import POSTERIOR
from denograd_tasks.settings import Settings, without_credentials
from denograd_tasks.store import open_store
from denograd_tasks.versions import Manifest, resolve
from denograd_tasks.watch.arrivals import arrived
from denograd_tasks.watch.bookmark import Bookmark, Watched, alarm_of, changed_in, read_bookmark
from denograd_tasks.watch.reference import reference_of, residuals

if TYPE_CHECKING:
    import pandas as pd

    from denograd_engine.drift.profile import Profile
    from denograd_engine.drift.watch import State, Watch


@dataclass(frozen=True)
class Looked:
    """What came of a look.

    Attributes:
        watched: What it found.
        bookmark: To be remembered.
        raised: Whether it found a drift that nobody has been told of.
    """

    watched: Watched
    bookmark: Bookmark
    raised: bool


def check(settings: Settings) -> Looked:
    """Look at what arrived since the last time; nothing is written.

    Raises:
        StoreError: If nothing is published, or what is needed of it is missing or damaged.
        DataError: If the source cannot be used, or has not the columns that it had.
    """
    from denograd_engine.drift.watch import Watch

    store = open_store(settings.publish.root)
    manifest = resolve(store, settings.dataset)
    profile, record = reference_of(store, manifest), model_of(manifest, settings, "")
    known = read_bookmark(store, settings.dataset, manifest.digest)
    modelled = [column.name for column in profile.columns if column.residual]
    schema, read = schema_of_model(store, record), None if known is None else known.read
    came = arrived(store, manifest, settings, schema, read, _steps(manifest) if modelled else None)
    frame, predicted = _no_rows(profile), np.empty(0)
    if came.new.any():
        frame = came.frame[came.new]
        predicted = residuals(came.frame, record, settings.device)[came.new] if modelled else predicted
    watch = Watch(profile)
    checked = watch.check(_state(watch, known), frame, dict.fromkeys(modelled, predicted))
    verdict, before = checked.verdict, None if known is None else known.alarm
    alarm = before if before is not None or verdict.holds else alarm_of(verdict)
    watched = Watched(
        dataset=settings.dataset,
        version=manifest.number,
        report=without_credentials(store.uri(manifest.content["report"])),
        arrived=len(frame),
        rows=verdict.rows,
        checks=verdict.checks,
        severity=verdict.severity.value,
        evidence=verdict.evidence,
        changed=changed_in(verdict),
        alarm=alarm,
    )
    bookmark = Bookmark(version=manifest.digest, read=came.read, state=checked.state.to_plain(), alarm=alarm)
    return Looked(watched, bookmark, raised=before is None and alarm is not None)


def _steps(manifest: Manifest) -> int:
    """That must come after a step of a series before the model can say of it what it said of the reference."""
    posterior = manifest.content["model"]["architecture"]["kind"] == POSTERIOR
    return int((manifest.content["unsettled"] or {"steps": 0})["steps"]) if posterior else 0


def _state(watch: Watch, known: Bookmark | None) -> State:
    """Where the last look ended; another release may begin anew."""
    if known is not None:
        with suppress(ConfigError):
            return watch.state(known.state)
    return watch.fresh()


def _no_rows(profile: Profile) -> pd.DataFrame:
    """What has the columns of the reference."""
    import pandas as pd

    kinds = {column.name: "float64" if column.cuts else "object" for column in profile.columns if not column.residual}
    if profile.clock.order is not None:
        kinds[profile.clock.order] = "datetime64[ns]"
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
