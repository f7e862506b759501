"""The reference of a version: its raw data and the residuals of its model, in a few thousand numbers.

It is kept with the evidence, as JSON and safetensors: reading it executes nothing. Residuals are those of rows that the
model had not seen: of all rows where it is cross-fitted, else of those held out in training. A network that came
trained may have seen any row, and then there are none.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from denograd_engine.errors import DataError, StoreError
from denograd_tasks.append import schema_of_model
from denograd_tasks.models import SCALING, load_backbone
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.records import File, Refined, Snapshot, TrainedBackbone
from denograd_tasks.settings import Settings
from denograd_tasks.store import Store
from denograd_tasks.tables import put_bytes, read_table, to_frame
from denograd_tasks.unseen import unseen_rows
from denograd_tasks.versions import Manifest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.drift.profile import Profile
    from denograd_engine.schema import Schema

PLAIN = "profile.json"
ARRAYS = "profile.safetensors"
MOST_ASKED = 20_000
"""Rows of a table that the model is asked about at once, for time's sake: they tell a change of a tenth of a std."""


def keep_reference(
    store: Store, snapshot: Snapshot, backbone: TrainedBackbone, refined: Refined, settings: Settings
) -> tuple[File, ...]:
    """Profile the raw data, and write the profile down; nothing where the rows are too few for one."""
    from safetensors.numpy import save

    from denograd_engine.drift.profile import profile_of

    frame = to_frame(read_table(store, snapshot.files[0].path))
    schema = schema_of_model(store, backbone)
    known = _unseen_residuals(store, frame, schema, backbone, refined, settings)
    try:
        profile = profile_of(frame, schema, known)
    except DataError:
        return ()
    plain, arrays = profile.to_plain()
    content = {
        PLAIN: json.dumps(plain, indent=1).encode(),
        ARRAYS: save({name: np.ascontiguousarray(values) for name, values in arrays.items()}),
    }
    folder = f"{settings.dataset}/evidence/{refined.attempt}"
    return tuple(put_bytes(store, raw, f"{folder}/{name}") for name, raw in content.items())


def reference_of(store: Store, manifest: Manifest) -> Profile:
    """The reference of a version.

    Raises:
        StoreError: If it has none, or if it is not as it was published.
        ConfigError: If it was written by a release that keeps other facts.
    """
    from safetensors.numpy import load

    from denograd_engine.drift.profile import Profile

    files = {one["path"].rsplit("/", 1)[-1]: File(**one) for one in manifest.content["evidence"]}
    if PLAIN not in files or ARRAYS not in files:
        raise StoreError(
            f"{manifest.dataset}@{manifest.number} has no reference to compare with",
            expected=f"{PLAIN} among its evidence",
            where=store.uri(manifest.path),
            remedy="publish a version of at least 50 rows with this release: denograd run denograd.yaml",
        )
    for name in (PLAIN, ARRAYS):
        if not store.holds(files[name].path, files[name].sha256):
            raise StoreError(
                "a stored object is missing or damaged",
                expected=f"sha256 {files[name].sha256}",
                where=store.uri(files[name].path),
                remedy="look for more damage with: denograd verify",
            )
    return Profile.from_plain(json.loads(store.read(files[PLAIN].path)), load(store.read(files[ARRAYS].path)))


def residuals(frame: pd.DataFrame, record: TrainedBackbone, device: str) -> NDArray[np.float64]:
    """What the frozen model says of the targets less what was observed, of each row the largest.

    Args:
        frame: The rows, and in a series those around them.
        record: The model.
        device: Where it runs.

    Returns:
        Standardised, shape (rows,); missing where a row has not what the model needs, all of them in a series without
        an unbroken run that is long enough, and in a table beyond `MOST_ASKED` rows, evenly spaced.
    """
    from denograd_engine.errors import TimeAxisError, TooFewRowsError
    from denograd_engine.posterior.refining import clean
    from denograd_engine.refinement import Refining, refine

    model: Any = (load_posterior if record.posterior else load_backbone)(record, device)
    found = np.full(len(frame), np.nan)
    asked = np.arange(len(frame))
    if model.encoder.schema.series is None:
        asked = asked[:: max(1, math.ceil(len(frame) / MOST_ASKED))]
    rows = frame.iloc[asked]
    with suppress(TimeAxisError, TooFewRowsError):
        refined: Any = (
            clean(rows, model, device)
            if record.posterior
            else refine(rows, model, Refining(max_epochs=1, device=device))
        )
        found[asked] = _finite(refined.rows["residual_before"].to_numpy())
    return found


def _unseen_residuals(
    store: Store, frame: pd.DataFrame, schema: Schema, backbone: TrainedBackbone, refined: Refined, settings: Settings
) -> dict[str, NDArray[np.float64]]:
    from denograd_engine.drift.profile import FEWEST_ROWS
    from denograd_engine.frames import Encoder

    found = _finite(read_table(store, refined.rows.path)["residual_before"].to_numpy())
    if not backbone.posterior and backbone.architecture.folds is None:
        if backbone.adopted:
            return {}
        encoder = Encoder.from_dict(json.loads(store.read(backbone.file(SCALING).path)))
        unseen = unseen_rows(frame, encoder, settings, backbone.start)
        if unseen is None:
            return {}
        found[~unseen] = np.nan
    return {", ".join(schema.targets): found} if np.isfinite(found).sum() >= FEWEST_ROWS else {}


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)
