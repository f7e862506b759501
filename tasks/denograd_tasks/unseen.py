"""Rows that a model has not seen: held out from its training, or later than the data that it learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from denograd_engine.columns import Role
from denograd_tasks.append import key_of
from denograd_tasks.champion import Start
from denograd_tasks.roles import training_of
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import read_table, to_frame

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.frames import Encoder
    from denograd_engine.schema import Schema


def new_rows(frame: pd.DataFrame, schema: Schema, settings: Settings, snapshot: str | None) -> NDArray[np.bool_] | None:
    """Rows that an earlier snapshot of the data set does not have, shape (rows,).

    They are told by `columns.key`, steps of a series by entity and time; in tables without a key, by what a model reads
    of them.

    Args:
        frame: The rows.
        schema: Their columns.
        settings: The configuration.
        snapshot: Digest of the earlier snapshot; None if it is not known.

    Returns:
        None where that cannot be told: the snapshot is gone, or has other columns.
    """
    store = open_store(settings.publish.root)
    path = f"{settings.dataset}/snapshots/{snapshot}/part-00000.parquet"
    if snapshot is None or store.size(path) is None:
        return None
    read = [*schema.cells, *schema.names(Role.FROZEN), *([] if schema.label is None else [schema.label])]
    names = list(key_of(settings)) or read
    before = to_frame(read_table(store, path))
    if not set(names) <= set(before.columns):
        return None
    try:
        before = before[names].astype(frame[names].dtypes)
    except (ValueError, TypeError):
        return None
    return ~np.isin(_hashes(frame[names]), _hashes(before))


def unseen_rows(
    frame: pd.DataFrame, encoder: Encoder, settings: Settings, start: Start | None
) -> NDArray[np.bool_] | None:
    """Rows that one network was neither fitted to nor, where it went on from another, that one before, shape (rows,).

    Args:
        frame: The rows that it was trained on.
        encoder: Its scaling.
        settings: Those of its training.
        start: Where its training began.

    Returns:
        None where that cannot be told.
    """
    from denograd_engine.unseen import held_out

    rows = held_out(frame, encoder, training_of(settings))
    if start is None or start.reason is not None:
        return rows
    new = new_rows(frame, encoder.schema, settings, start.snapshot)
    return None if new is None else rows & new


def _hashes(frame: pd.DataFrame) -> NDArray[np.uint64]:
    import pandas as pd

    return np.asarray(pd.util.hash_pandas_object(frame, index=False), dtype=np.uint64)
