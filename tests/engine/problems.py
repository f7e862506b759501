"""Problems with a known answer: linear backbones, and the published rule as loops that anybody can check.

The references follow the paper with one plain loop over rows, windows, targets and epochs. They share nothing with the
engine but the scaling of the columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from denograd_engine.frames import Encoder, Scale
from denograd_engine.schema import Schema, Series, infer_schema
from denograd_engine.training import Backbone


def linear(weight, bias=0.0, dtype=torch.float64):
    """f(x) = W x + b of the flattened input, shape of W (targets, inputs)."""
    weight = torch.as_tensor(np.atleast_2d(weight), dtype=dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias, dtype=dtype).expand(len(weight)))
    return nn.Sequential(nn.Flatten(), layer)


def fitted(frame, schema, module, standardise=True):
    """A backbone as `train` returns it, around a given network."""
    encoder = Encoder.fit(frame, schema)
    if not standardise:
        encoder = replace(encoder, scales=tuple(Scale(0.0, 1.0) for _ in encoder.scales))
    return Backbone(module, encoder, skill={}, residual_scale=float("nan"))


def width_of(encoder):
    """Columns of one row as the backbone reads it, targets left out."""
    return len(encoder.schema.features) + encoder.context_width


def shown(schema):
    """Cell columns that a window shows."""
    return len(schema.cells) if schema.series.targets_as_inputs else len(schema.features)


@dataclass(frozen=True)
class Linear:
    """A table or series and a linear backbone for it.

    Attributes:
        runs: Of a series: positions of the rows of each unbroken run, in order of time.
    """

    frame: pd.DataFrame
    schema: Schema
    backbone: Backbone
    runs: tuple[tuple[int, ...], ...] = ()

    @property
    def weight(self):
        return self.backbone.module[1].weight.detach().numpy()

    @property
    def bias(self):
        return self.backbone.module[1].bias.detach().numpy()


def plain_table(weight=(1.0, 2.0, -0.5), residual=None, rows=60, seed=0):
    """One target, features only, standardised units are the user's: y = w.x - r for given residuals r."""
    random = np.random.default_rng(seed)
    weight = np.asarray(weight)
    x = random.normal(size=(rows, len(weight)))
    residual = random.normal(size=rows) if residual is None else np.asarray(residual, dtype=float)
    frame = pd.DataFrame(x, columns=[f"x{at}" for at in range(len(weight))]).assign(y=x @ weight - residual)
    schema = infer_schema(frame, "y", features=list(frame.columns[:-1]))
    return Linear(frame, schema, fitted(frame, schema, linear(weight), standardise=False))


def mixed_table(targets=1, missing=False, frozen_target=False, rows=70, seed=1):
    """Features, targets, codes, categories, an ignored column; on demand missing cells and a target of codes."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)) * [1.0, 30.0, 0.02] + [0.0, 500.0, 1.0]
    frame = pd.DataFrame(x, columns=["speed", "pressure", "density"])
    frame.insert(1, "rooms", random.integers(1, 6, rows))
    frame["kind"] = random.choice(["low", "mid", "high"], rows)
    frame["note"] = [f"text {at}" for at in random.permutation(rows)]
    names = [f"y{at}" for at in range(targets)]
    for at, name in enumerate(names):
        frame[name] = x[:, 0] * (at + 1) - x[:, 1] / 30 + frame["rooms"] + random.normal(size=rows)
    if frozen_target:
        frame["grade"] = random.integers(0, 4, rows)
        names.append("grade")
    if missing:
        frame.loc[random.random(rows) < 0.2, "pressure"] = np.nan
        frame.loc[random.random(rows) < 0.1, "density"] = np.nan
        frame.loc[random.random(rows) < 0.1, "kind"] = None
        frame.loc[random.choice(rows, 5, replace=False), names[-1]] = np.nan
    schema = infer_schema(frame, names, ignored=["note"])
    encoder = Encoder.fit(frame, schema)
    module = linear(random.normal(size=(len(names), width_of(encoder))) / 2, random.normal(size=len(names)) / 2)
    return Linear(frame, schema, fitted(frame, schema, module))


def mixed_series(
    targets=1,
    window=4,
    future=1,
    stride=1,
    entities=1,
    gap=False,
    missing=False,
    steps=70,
    seed=2,
    max_gap=None,
    targets_as_inputs=True,
    flatten=False,
):
    """Hourly series of several sites, interleaved; on demand with a pause and missing cells."""
    random = np.random.default_rng(seed)
    hours = [hour for hour in range(steps) if not (gap and steps // 2 <= hour < steps // 2 + 5)]
    records = [(hour, f"site {site}") for hour in hours for site in range(entities) if (hour + site) % 11 or not site]
    rows = len(records)
    frame = pd.DataFrame(
        {
            "time": pd.Timestamp("2024-03-01", tz="Europe/Berlin")
            + pd.to_timedelta([hour for hour, _ in records], "h"),
            "site": [site for _, site in records],
            "wind": random.normal(5.0, 2.0, rows),
            "mode": random.integers(0, 3, rows),
        }
    )
    names = [f"power{at}" for at in range(targets)]
    for name in names:
        frame[name] = 3 * frame["wind"] + random.normal(0.0, 4.0, rows)
    if missing:
        frame.loc[random.random(rows) < 0.1, "wind"] = np.nan
        frame.loc[random.random(rows) < 0.1, names[-1]] = np.nan
    entity = ("site",) if entities > 1 else ()
    max_gap = max_gap or ("90min" if entities == 1 else "150min")
    series = Series("time", entity, window, future, stride, max_gap, targets_as_inputs, flatten)
    ignored = [] if entity else ["site"]
    schema = infer_schema(frame, names, ignored=ignored, series=series)
    encoder = Encoder.fit(frame, schema)
    inputs, outputs = window * (shown(schema) + encoder.context_width), len(schema.outputs)
    module = linear(random.normal(size=(outputs, inputs)) / 3, random.normal(size=outputs) / 2)
    runs = []
    for site in range(entities):
        previous = None
        for at, (hour, name) in enumerate(records):
            if name == f"site {site}":
                if previous is None or hour - previous > 2:
                    runs.append([])
                runs[-1].append(at)
                previous = hour
    return Linear(frame, schema, fitted(frame, schema, module), tuple(tuple(run) for run in runs))


@dataclass(frozen=True)
class Answer:
    """What a refinement must come to. `cells` in the user's units, shape (rows, cells), the rest one for each row."""

    cells: np.ndarray
    status: list[str]
    iterations: list[int]
    before: np.ndarray
    after: np.ndarray


def encoded_by_hand(problem):
    """Cells, which of them may move, context; cell by cell."""
    encoder, schema, frame = problem.backbone.encoder, problem.schema, problem.frame
    rows = len(frame)
    cells = np.zeros((rows, len(schema.cells)))
    movable = np.zeros(cells.shape, dtype=bool)
    groups = [list(range(rows))]
    if schema.series and schema.series.entity:
        keys = list(frame[list(schema.series.entity)].itertuples(index=False, name=None))
        groups = [[at for at in range(rows) if keys[at] == key] for key in dict.fromkeys(keys)]
    for at, name in enumerate(schema.cells):
        scale, values = encoder.scales[at], frame[name].tolist()
        for group in groups:
            known = [place for place, row in enumerate(group) if not pd.isna(values[row])]
            standardised = [(float(values[group[place]]) - scale.center) / scale.spread for place in known]
            for place, row in enumerate(group):
                if place in known:
                    cells[row, at] = standardised[known.index(place)]
                    movable[row, at] = schema[name].refined
                elif schema.series and known:
                    cells[row, at] = np.interp(place, known, standardised)
                else:
                    cells[row, at] = scale.imputed
    context = []
    for row in range(rows):
        numbers = []
        for one in encoder.contexts:
            value = frame[one.name].iloc[row]
            if one.kind == "category":
                numbers += [float(not pd.isna(value) and str(value) == level) for level in one.levels]
            else:
                assert one.kind == "number"
                numbers.append((value - one.scale.center) / one.scale.spread)
        numbers += [float(pd.isna(frame[name].iloc[row])) for name in encoder.flagged]
        context.append(numbers)
    return cells, movable, np.array(context).reshape(rows, -1)


def rows_by_hand(problem, eta, tau, epochs, refine_targets=True):
    """The published rule, row by row."""
    cells, movable, context = encoded_by_hand(problem)
    features = len(problem.schema.features)
    if not refine_targets:
        movable[:, features:] = False
    weight, bias, moved = problem.weight, problem.bias, cells.copy()
    known = problem.frame[problem.schema.targets].notna().all(axis=1).tolist()
    tracks = {}
    for row in range(len(cells)):
        if not known[row]:
            continue
        z, track = moved[row], _Track()
        tracks[row] = track
        for _ in range(epochs):
            r = weight @ np.concatenate([z[:features], context[row]]) + bias - z[features:]
            g = np.concatenate([(weight.T @ r)[:features], -r]) * movable[row]
            if track.note(r, g, tau):
                z -= eta * g / np.sqrt(g @ g)
        track.end(weight @ np.concatenate([z[:features], context[row]]) + bias - z[features:], tau)
    return _answer(problem, cells, moved, tracks)


def windows_by_hand(problem, eta, tau, epochs, refine_targets=True):
    """The published consensus, window by window; every window is looked at in every epoch."""
    cells, movable, context = encoded_by_hand(problem)
    inputs, width = shown(problem.schema), len(problem.schema.cells)
    targets = list(range(len(problem.schema.features), width))
    if not refine_targets:
        movable[:, targets] = False
    weight, bias, moved = problem.weight, problem.bias, cells.copy()
    windows = known_windows(problem)
    tracks = {ahead[0]: _Track() for _, ahead in windows}

    def residual(covered, ahead):
        x = np.concatenate([np.concatenate([moved[row, :inputs], context[row]]) for row in covered])
        return weight @ x + bias - np.concatenate([moved[row, targets] for row in ahead])

    for _ in range(epochs):
        G, C = np.zeros_like(cells), np.zeros_like(cells)
        for covered, ahead in windows:
            r = residual(covered, ahead)
            pieces = (weight.T @ r).reshape(len(covered), -1)[:, :inputs]
            g_x = np.array([piece * movable[row, :inputs] for piece, row in zip(pieces, covered, strict=True)])
            g_y = [-part * movable[row, targets] for part, row in zip(r.reshape(len(ahead), -1), ahead, strict=True)]
            for row in covered:
                C[row, :inputs] += 1
            for row in ahead:
                C[row, targets] += 1
            g = np.concatenate([g_x.ravel(), *g_y])
            if tracks[ahead[0]].note(r, g, tau):
                length = np.sqrt(g @ g)
                for row, part in zip(covered, g_x, strict=True):
                    G[row, :inputs] += part / length
                for row, part in zip(ahead, g_y, strict=True):
                    G[row, targets] += part / length
        moved -= eta * G / np.maximum(C, 1)
    for covered, ahead in windows:
        tracks[ahead[0]].end(residual(covered, ahead), tau)
    return _answer(problem, cells, moved, tracks)


def windows_of(runs, series):
    """Rows covered and rows predicted, for each window of each run."""
    windows, horizons = [], sorted(np.atleast_1d(series.future).tolist())
    for run in runs:
        start = 0
        while start + series.window + horizons[-1] - 1 < len(run):
            ahead = tuple(run[start + series.window + horizon - 1] for horizon in horizons)
            windows.append((run[start : start + series.window], ahead))
            start += series.stride
    return windows


def known_windows(problem):
    """Those of them that predict nothing that is missing."""
    known = problem.frame[problem.schema.targets].notna().all(axis=1).to_numpy()
    windows = windows_of(problem.runs, problem.schema.series)
    return [(covered, ahead) for covered, ahead in windows if known[list(ahead)].all()]


class _Track:
    """What happened to one row or window."""

    def __init__(self):
        self.residuals, self.steps, self.stuck, self.crossed = [], 0, False, False

    def note(self, r, g, tau):
        """Whether the item steps."""
        outside = np.abs(r).max() > tau
        self.crossed = outside and bool(self.residuals) and bool((r * self.residuals[-1] < 0).any())
        self.stuck = outside and not g.any()
        self.residuals.append(r)
        self.steps += outside and not self.stuck
        return outside and not self.stuck

    def end(self, r, tau):
        self.residuals.append(r)
        if np.abs(r).max() <= tau:
            self.status = "converged" if self.steps else "within_gate"
        elif self.stuck:
            self.status = "stalled"
        else:
            self.status = "oscillating" if self.crossed else "max_epochs"


def _answer(problem, cells, moved, tracks):
    rows, encoder = range(len(cells)), problem.backbone.encoder
    raw = np.full(cells.shape, np.nan)
    for at, name in enumerate(problem.schema.cells):
        for row in rows:
            value = problem.frame[name].iloc[row]
            if not pd.isna(value):
                raw[row, at] = value + (moved[row, at] - cells[row, at]) * encoder.scales[at].spread

    def largest(residuals):
        return residuals[np.abs(residuals).argmax()]

    return Answer(
        cells=raw,
        status=[tracks[row].status if row in tracks else "skipped" for row in rows],
        iterations=[tracks[row].steps if row in tracks else 0 for row in rows],
        before=np.array([largest(tracks[row].residuals[0]) if row in tracks else np.nan for row in rows]),
        after=np.array([largest(tracks[row].residuals[-1]) if row in tracks else np.nan for row in rows]),
    )


def assert_answers(result, problem, answer, atol=1e-9):
    """The refinement came to the same, status and all."""
    found = result.frame[problem.schema.cells].to_numpy(dtype=float)
    np.testing.assert_allclose(found, answer.cells, rtol=1e-9, atol=atol)
    assert result.rows["status"].tolist() == answer.status
    assert result.rows["iterations"].tolist() == answer.iterations
    np.testing.assert_allclose(result.rows["residual_before"], answer.before, atol=atol)
    np.testing.assert_allclose(result.rows["residual_after"], answer.after, atol=atol)
    untouched = problem.schema.untouched
    pd.testing.assert_frame_equal(result.frame[untouched], problem.frame[untouched], check_exact=True)
