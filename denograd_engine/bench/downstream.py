"""Downstream models: fitted on data as they are or refined, and judged on data that nobody touched.

They read what a backbone reads: rows of features and frozen context, or windows of past steps, flattened for those
that know no time. Nothing is tuned; every model is small enough for a laptop.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from denograd_engine.bench.optional import library
from denograd_engine.errors import ConfigError
from denograd_engine.frames import Encoder
from denograd_engine.problem import pose

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from denograd_engine.schema import Schema

NEIGHBOURS = 10
LEAF = 5
ROUNDS = 100
EBM = {"interactions": 0, "outer_bags": 2, "max_rounds": 500, "max_bins": 256, "reg_lambda": 1.0, "n_jobs": 1}
"""Far below the package's defaults (14 bags, 50,000 rounds, pairs of features), which take minutes a fit. Without the
penalty it diverges on rare classes."""
EPOCHS = 30
PREDICTED_AT_ONCE = 4096


class Fitted(ABC):
    """A model after training, with the scaling that it was trained on."""

    encoder: Encoder

    @abstractmethod
    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Predictions of shape (items, outputs), standardised; the number of the class, shape (items,), for classes."""


Learner = Callable[["pd.DataFrame", "Schema", int], Fitted]
"""From training data, the roles of the columns and a seed to a fitted model."""


@dataclass(frozen=True)
class Kind:
    """A downstream model: what fits it, and whether it is for tables, series or both, and among the quick ones."""

    learner: Learner
    tables: bool = True
    series: bool = True
    quick: bool = False


@final
class _Estimator(Fitted):
    """A model with scikit-learn's interface; one for each output where it knows only one."""

    def __init__(self, make: Callable[[bool, int], Any], frame: pd.DataFrame, schema: Schema, seed: int, single: bool):
        self.encoder = Encoder.fit(frame, schema)
        x, y = items_of(frame, self.encoder)
        self.levels: NDArray[Any] | None = None
        if schema.label is not None:
            self.levels, y = np.unique(y[:, 0], return_inverse=True)
        elif y.shape[1] == 1:
            y = y[:, 0]
        columns = list(y.T) if single and y.ndim == 2 else [y]
        self.models = [make(self.levels is not None, seed) for _ in columns]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The number of unique classes is greater", category=UserWarning)
            warnings.filterwarnings("ignore", message="The least populated class in y", category=UserWarning)
            for model, column in zip(self.models, columns, strict=True):
                model.fit(_flat(x), column)

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        found = [np.asarray(model.predict(_flat(x))) for model in self.models]
        if self.levels is not None:
            classes: NDArray[Any] = self.levels[found[0].astype(int)]
            return classes
        return np.column_stack(found)


@final
class _Network(Fitted):
    """One of our backbones."""

    def __init__(self, kind: str, frame: pd.DataFrame, schema: Schema, seed: int) -> None:
        from denograd_engine.training import Training, train

        flat = kind == "tabpfn" and schema.series is not None
        backbone = train(frame, _flattened(schema) if flat else schema, kind, training=_training(Training, seed))
        self.module, self.encoder, self.flat = backbone.module.eval(), Encoder.fit(frame, schema), flat

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        given = torch.from_numpy(np.ascontiguousarray(_flat(x) if self.flat else x))
        with torch.no_grad():
            parts = [self.module(part).reshape(len(part), -1) for part in torch.split(given, PREDICTED_AT_ONCE)]
        predicted: NDArray[Any] = torch.cat(parts).numpy()
        return predicted.argmax(axis=1) if self.encoder.classes else predicted


def _estimator(make: Callable[[bool, int], Any], single: bool = False) -> Learner:
    return lambda frame, schema, seed: _Estimator(make, frame, schema, seed, single)


def _network(kind: str) -> Learner:
    return lambda frame, schema, seed: _Network(kind, frame, schema, seed)


def _ridge(classes: bool, seed: int) -> Any:
    module = library("sklearn.linear_model")
    return module.RidgeClassifier() if classes else module.Ridge()


def _knn(classes: bool, seed: int) -> Any:
    module = library("sklearn.neighbors")
    return (module.KNeighborsClassifier if classes else module.KNeighborsRegressor)(n_neighbors=NEIGHBOURS)


def _tree(classes: bool, seed: int) -> Any:
    module = library("sklearn.tree")
    chosen = module.DecisionTreeClassifier if classes else module.DecisionTreeRegressor
    return chosen(min_samples_leaf=LEAF, random_state=seed)


def _ebm(classes: bool, seed: int) -> Any:
    module = library("interpret.glassbox")
    chosen = module.ExplainableBoostingClassifier if classes else module.ExplainableBoostingRegressor
    return chosen(**EBM, random_state=seed)


def _boosting(classes: bool, seed: int) -> Any:
    module = library("xgboost")
    chosen = module.XGBClassifier if classes else module.XGBRegressor
    return chosen(n_estimators=ROUNDS, max_depth=5, learning_rate=0.1, n_jobs=1, random_state=seed, verbosity=0)


def estimator(name: str, classes: bool, seed: int = 0) -> Any:
    """A model of scikit-learn's, not fitted: ridge, knn or tree, for classes or for numbers."""
    return {"ridge": _ridge, "knn": _knn, "tree": _tree}[name](classes, seed)


REGISTRY: Mapping[str, Kind] = {
    "ridge": Kind(_estimator(_ridge), quick=True),
    "knn": Kind(_estimator(_knn), quick=True),
    "tree": Kind(_estimator(_tree), series=False, quick=True),
    "boosting": Kind(_estimator(_boosting), quick=True),
    "ebm": Kind(_estimator(_ebm, single=True), series=False),
    "dnn": Kind(_network("mlp"), series=False),
    "lstm": Kind(_network("lstm"), tables=False),
    "cnn_lstm": Kind(_network("cnn_lstm"), tables=False),
    "dlinear": Kind(_network("dlinear"), tables=False),
    "xlstm": Kind(_network("xlstm"), tables=False),
    "tabpfn": Kind(_network("tabpfn")),
}
"""The downstream models, by name."""


def chosen(models: str | Sequence[str], schema: Schema) -> tuple[str, ...]:
    """The downstream models for this data set.

    Args:
        models: `quick`, `all` (of those that can be built here), or names.
        schema: Of the data set; models that are not meant for its kind are left out.

    Raises:
        ConfigError: If a name is unknown, a named model cannot be built, or none is left.
    """
    fit = [name for name, kind in REGISTRY.items() if (kind.tables if schema.series is None else kind.series)]
    if models == "quick":
        return tuple(name for name in fit if REGISTRY[name].quick)
    if models == "all":
        return tuple(name for name in fit if _can_be_built(name, schema))
    wanted = [models] if isinstance(models, str) else list(models)
    for name in wanted:
        if name not in REGISTRY:
            expected = f"quick or all or {' or '.join(REGISTRY)}"
            raise ConfigError(f"there is no downstream model {name!r}", expected=expected, where="--models")
    found = tuple(name for name in wanted if name in fit)
    if not found:
        kind = "a table" if schema.series is None else "a series"
        raise ConfigError(
            f"none of these models is for {kind}", expected=" or ".join(fit), found=", ".join(wanted), where="--models"
        )
    for name in found:
        _require(name, schema)
    return found


def items_of(frame: pd.DataFrame, encoder: Encoder) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and targets of the items whose targets are known, standardised: see `Problem.gather`."""
    problem = pose(frame, encoder, torch.device("cpu"), torch.float32, fewest=1)
    x, y = problem.gather(problem.known)
    return x.numpy(), y.numpy()


def error(model: Fitted, frame: pd.DataFrame, units: NDArray[np.float64]) -> float:
    """Mean squared error in these units squared, mean over outputs; for classes, the share of wrong ones.

    Args:
        model: Fitted.
        frame: What it is judged on.
        units: One for each output, in the targets' own units; see `units_of`.
    """
    x, y = items_of(frame, model.encoder)
    predicted = model.predict(x)
    if model.encoder.classes:
        return float(np.mean(predicted != y[:, 0]))
    scale = units_like(model.encoder) / units
    return float(np.mean(np.square((predicted - y) * scale)))


def units_of(frame: pd.DataFrame, schema: Schema) -> NDArray[np.float64]:
    """Standard deviations of the targets, for each output of a model."""
    if schema.label is not None:
        return np.ones(1)
    stds = [float(np.nanstd(frame[name].to_numpy(dtype=np.float64, na_value=np.nan))) for name in schema.targets]
    return np.tile(stds, len(schema.outputs) // len(stds))


def units_like(encoder: Encoder) -> NDArray[np.float64]:
    """What an encoder standardises the outputs by."""
    spreads = encoder.spreads[len(encoder.schema.features) :]
    return np.tile(spreads, len(encoder.schema.outputs) // len(spreads))


def _can_be_built(name: str, schema: Schema) -> bool:
    try:
        _require(name, schema)
    except ConfigError:
        return False
    return True


def _require(name: str, schema: Schema) -> None:
    """Refuse a model whose package or weights are not there, or that knows no classes."""
    for other, module in (("ebm", "interpret.glassbox"), ("boosting", "xgboost")):
        if name == other:
            library(module)
    if name in ("xlstm", "tabpfn"):
        from denograd_engine.backbones import build

        if name == "tabpfn" and schema.label is not None:
            raise ConfigError("tabpfn does not predict classes", where="--models")
        build(name, (4,) if name == "tabpfn" else (8, 4), 1)


def _training(cls: Any, seed: int) -> Any:
    return cls(epochs=EPOCHS, patience=5, seed=seed, device="cpu")


def _flattened(schema: Schema) -> Schema:
    from dataclasses import replace

    assert schema.series is not None
    return replace(schema, series=replace(schema.series, flatten=True))


def _flat(x: NDArray[Any]) -> NDArray[Any]:
    return x.reshape(len(x), -1)
