"""What is measured of one method on one trial, as raw numbers by name; ratios to `none` are taken in `results`.

The truth protocol compares with the clean data, which no method sees. The paper's protocol has no clean data: its
downstream models are trained and tested on refined data, which flatters whatever smooths.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from denograd_engine.bench import downstream
from denograd_engine.bench.case import Denoised, Trial
from denograd_engine.bench.methods import NONE, Named
from denograd_engine.errors import DenogradError
from denograd_engine.evaluate import recovery
from denograd_engine.fidelity import measure_fidelity, sliced_wasserstein
from denograd_engine.frames import Encoder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Z90 = 1.6448536269514722
"""Half width of a Gaussian's central 90%, in standard deviations."""
HELD_OUT = 0.2
"""Share of the training part on which the paper's protocol tests."""

Figures = dict[str, float]
"""By name: `measure`, or `measure/model` for what a downstream model does."""


def measure(trial: Trial, method: Named, seed: int, models: Sequence[str]) -> Figures:
    """Let a method remove the noise, and measure what came out, by both protocols.

    Args:
        trial: Noisy data and the truth.
        method: What removes the noise.
        seed: Of the method and of the downstream models.
        models: Names of `downstream.REGISTRY`.

    Returns:
        Recoveries, 1 recovers nothing and 0 everything; `clean_test/*`, `noisy_inputs/*`, `refined_inputs/*` and
        `paper/*`, errors of downstream models; `ceiling/*`, errors of those trained on the clean data, for `none` only;
        distances and spreads, seconds, of methods that state a std the coverage and width of their intervals, and of
        those that call cells faulty, precision and recall.

    Raises:
        DenogradError: If the method gives back something else than the refined data.
    """
    started = time.perf_counter()
    refined = method.call(trial.given, seed)
    seconds = time.perf_counter() - started
    _require_sound(trial, refined)
    figures = {"seconds": seconds, **_recovered(trial, refined), **_distances(trial, refined)}
    if refined.std is not None:
        figures |= _intervals(trial, refined.train, refined.std)
    if refined.faults is not None:
        figures |= _detected(trial, refined.faults)
    for name in models:
        figures |= {f"{key}/{name}": value for key, value in _models(trial, refined, name, seed, method.name).items()}
    return figures


def _recovered(trial: Trial, refined: Denoised) -> Figures:
    found = recovery(trial.train, trial.given.train, refined.train, trial.features, trial.targets)
    unseen = recovery(trial.test, trial.test_noisy, refined.test, trial.features, ())
    return {
        "recovery_features": found.features,
        "recovery_targets": found.targets,
        "recovery_cells": found.cells,
        "recovery_test_features": unseen.features,
    }


def _distances(trial: Trial, refined: Denoised) -> Figures:
    names = [*trial.features, *trial.targets]
    truth, after = _numbers(trial.train, names), _numbers(refined.train, names)
    center, spread = np.nanmean(truth, axis=0), np.nanstd(truth, axis=0)
    ratios = np.nanstd(after, axis=0) / spread
    apart = [_imputed((_numbers(frame, names) - center) / spread) for frame in (trial.train, refined.train)]
    fidelity = measure_fidelity(trial.given.train, refined.train, Encoder.fit(trial.given.train, trial.schema))
    return {
        "swd_to_clean": sliced_wasserstein(*apart),
        "worst_std_ratio": float(ratios[np.argmax(np.abs(np.log(np.maximum(ratios, 1e-12))))]),
        "paper_swd": fidelity.swd,
        "paper_rho": fidelity.mean_rho,
    }


def _intervals(trial: Trial, refined: pd.DataFrame, std: pd.DataFrame) -> Figures:
    """Of the 90% intervals: the share that holds the truth, overall and in the worst column, and their mean width in
    clean standard deviations.
    """
    names = [name for name in (*trial.features, *trial.targets) if name in std.columns]
    if not names:
        return {}
    truth, center, spread = (_numbers(frame, names) for frame in (trial.train, refined, std))
    known = np.isfinite(truth) & np.isfinite(spread)
    inside = np.abs(truth - center) <= Z90 * spread
    width = 2 * Z90 * spread / np.nanstd(truth, axis=0)
    worst = min(float(column[there].mean()) for column, there in zip(inside.T, known.T, strict=True) if there.any())
    covered, wide = float(inside[known].mean()), float(width[known].mean())
    return {"coverage_90": covered, "coverage_90_worst": worst, "width_90": wide}


def _detected(trial: Trial, faults: pd.DataFrame) -> Figures:
    """Of the cells called faulty, the share that noise struck; of those that it struck, the share called faulty."""
    names = list(dict.fromkeys((*trial.features, *trial.targets, *faults.columns)))
    noisy, clean = trial.given.train[names], trial.train[names]
    struck = (noisy.ne(clean) & clean.notna()).to_numpy(dtype=bool)
    called = faults.reindex(columns=names, fill_value=False).to_numpy(dtype=bool)
    hits = int((called & struck).sum())
    return {"fault_precision": _share(hits, int(called.sum())), "fault_recall": _share(hits, int(struck.sum()))}


def _models(trial: Trial, refined: Denoised, name: str, seed: int, method: str) -> Figures:
    learner, schema = downstream.REGISTRY[name].learner, trial.schema
    units = downstream.units_of(trial.train, schema)
    model = learner(refined.train, schema, seed)
    found = {"clean_test": downstream.error(model, trial.test, units)}
    if trial.features:
        found["noisy_inputs"] = downstream.error(model, _inputs(trial, trial.test_noisy), units)
        found["refined_inputs"] = downstream.error(model, _inputs(trial, refined.test), units)
    found["paper"] = _paper(trial, refined.train, name, seed)
    if method == NONE:
        found["ceiling"] = downstream.error(learner(trial.train, schema, seed), trial.test, units)
    return found


def _inputs(trial: Trial, frame: pd.DataFrame) -> pd.DataFrame:
    """The clean test part with these noisy or refined features; past targets, where a series shows them, are clean."""
    return trial.test.assign(**{name: frame[name] for name in trial.features})


def _paper(trial: Trial, refined: pd.DataFrame, name: str, seed: int) -> float:
    """Error of a model trained and tested on these data, in units of the noisy ones."""
    series = trial.schema.series
    if series is None:
        shuffled = np.random.default_rng(seed).permutation(len(refined))
        held_out = round(HELD_OUT * len(refined))
        fitted, judged = refined.iloc[np.sort(shuffled[held_out:])], refined.iloc[np.sort(shuffled[:held_out])]
    else:
        stamps = np.sort(refined[series.time].unique())
        early = (refined[series.time] < stamps[int((1 - HELD_OUT) * len(stamps))]).to_numpy(dtype=bool)
        fitted, judged = refined[early], refined[~early]
    model = downstream.REGISTRY[name].learner(fitted.reset_index(drop=True), trial.schema, seed)
    units = downstream.units_of(trial.given.train, trial.schema)
    return downstream.error(model, judged.reset_index(drop=True), units)


def _require_sound(trial: Trial, refined: Denoised) -> None:
    """Refuse lost rows, changed columns that carry no noise, and cells that are no numbers any more."""
    for part, before, after in (("train", trial.given.train, refined.train), ("test", trial.given.test, refined.test)):
        if not before.index.equals(after.index) or list(before.columns) != list(after.columns):
            raise DenogradError("the method gave back other rows or columns than it got", where=f"the {part} part")
        noisy = {*trial.features, *trial.targets}
        for name in before.columns:
            if name not in noisy:
                if not before[name].equals(after[name]):
                    raise DenogradError(f"the method changed column {name!r}, which has no noise", where=f"{part} part")
            elif not np.isfinite(_numbers(after, [name])[before[name].notna().to_numpy(dtype=bool)]).all():
                raise DenogradError(f"the method left no number in cells of column {name!r}", where=f"the {part} part")

    faults, before = refined.faults, trial.given.train
    if faults is not None and not (
        faults.index.equals(before.index)
        and faults.columns.isin(before.columns).all()
        and bool((faults.dtypes == np.dtype(bool)).all())
    ):
        raise DenogradError("the faults are not true or false for cells of the train part", where="Denoised.faults")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _numbers(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    columns: list[Any] = [frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in names]
    return np.column_stack(columns)


def _imputed(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Missing cells at the clean mean, on both sides alike."""
    return np.nan_to_num(cells, nan=0.0)
