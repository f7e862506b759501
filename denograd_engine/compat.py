"""`DenoGrad` as the PyPI package `denograd` 1.1.0 publishes it: same signatures, same rule, written from scratch.

For code that already uses that package, and for its 4-tuple of plain arrays. Everything else in the engine is
better served by `refine`, which knows columns, scales, gaps in time and missing cells.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from denograd_engine.compat_work import Criterion, RowWork, SeriesWork, Work, gradients
from denograd_engine.devices import batch_size_for, dtype_of, frozen, resolve_device
from denograd_engine.errors import ConfigError, DataError, TimeAxisError
from denograd_engine.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Data: TypeAlias = "pd.DataFrame | pd.Series[Any] | Tensor | ArrayLike"
Denoised: TypeAlias = "tuple[NDArray[Any], NDArray[Any], list[NDArray[Any]], list[NDArray[Any]]]"


class DenoGrad:
    """Denoise data with the gradients of a trained model, whose weights stay as they are.

    Source: Alonso-Ramos et al., DenoGrad (2025), the core update rule for tables and the consensus strategy for
    series. For each row or window, g is the gradient of the criterion with respect to x and y jointly; while any
    target's |f(x) - y| exceeds `nr_threshold`, x and y step by -nrr g / |g|. In a series, a step of time moves by the
    mean over all windows that cover it (x) or predict it (y), those within the threshold included, once per epoch.

    Deviations from release 1.1.0, which is otherwise matched:

    - The model and the caller's data are never changed, nothing is printed, dropout is off, and every `transform`
      starts from the fitted data. There, a second one continues from the first.
    - Several targets, frames of pandas 3, whole numbers (returned as float64), double models, and flattened windows
      of several columns work. A target's gradient is kept where the shapes (n,) and (n, 1) meet.
    - A row whose prediction or gradient is not finite stays as it is. There, it becomes NaN.
    - `fit_transform` takes `future`, keyword-only, and passes each argument where it belongs.

    Args:
        model: Trained. Maps rows (b, columns), or windows (b, W, columns), to (b,) or (b, targets). A model that is
            itself a convolution, an instance of `Conv1d` to `Conv3d`, gets three-dimensional inputs as
            (b, columns, W).
        criterion: Maps predictions and targets to one number, their mean or sum over the batch.
        device: `cpu`, `cuda`, `cuda:N`; None takes the GPU where there is one. The model is there only while
            `transform` runs.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> model.weight.data.fill_(1.0)
    tensor([[1.]])
    >>> denoiser = DenoGrad(model, nn.MSELoss(), "cpu").fit(np.array([[2.0], [5.0]]), np.array([1.0, 5.0]))
    >>> x, y, gradients_x, gradients_y = denoiser.transform(nrr=0.1, max_epochs=2)
    >>> x.round(3).tolist(), y.round(3).tolist()
    ([[1.859], [5.0]], [1.141, 5.0])
    """

    def __init__(self, model: nn.Module, criterion: Criterion, device: str | torch.device | None = None) -> None:
        self.model = model
        self.criterion = criterion
        self.device = resolve_device("auto" if device is None else str(device))
        self._observed: _Observed | None = None

    def fit(
        self,
        X: Data,
        y: Data | str | None = None,
        is_ts: bool = False,
        window_size: int | None = None,
        future: int = 1,
        stride: int = 1,
        flattening: bool = False,
    ) -> DenoGrad:
        """Take a copy of the data to denoise.

        Args:
            X: Rows, or steps of a series in order, along the first axis; in the model's units.
            y: Targets, as many. Beside a frame, also a column's name or a list of names: those columns then *stay*
                in X as well, so that the model sees every column, in the frame's order.
            is_ts: Whether X is a series, which the model reads in windows. Only then do the others matter.
            window_size: Steps in a window, W. The window at s covers steps s..s+W-1.
            future: It predicts step s+W+future-1.
            stride: Steps from one window to the next.
            flattening: Whether the model gets windows as (b, W * columns), step after step.

        Raises:
            ValueError: If y is missing, or `window_size` is for a series.
            DataError: If X and y are not numbers, of the same length, or are too short for one window.
            ConfigError: If `window_size`, `stride` or `future` is out of range.
        """
        x_values, y_values = _paired(X, y)
        windows = _windows(len(x_values), window_size, future, stride) if is_ts else None
        self._observed = _Observed(x_values, y_values, windows, flattening)
        return self

    def transform(
        self,
        nrr: float = 0.05,
        nr_threshold: float = 0.01,
        max_epochs: int = 100,
        denoise_y: bool = True,
        batch_size: int = 1000,
        save_gradients: bool = True,
    ) -> Denoised:
        """Denoise the fitted data.

        Args:
            nrr: Length of a row's or window's step, eta.
            nr_threshold: Residual up to which a row or window stays, tau.
            max_epochs: Steps at most. It stops sooner, after an epoch in which nothing exceeded the threshold.
            denoise_y: Whether the targets move. If not, their part still counts in the length of the gradient.
            batch_size: Rows or windows in one pass; on a CPU possibly more, where no gradients are saved. Beyond
                rounding, the result does not depend on it.
            save_gradients: Whether to return the gradients. If not, rows and windows within the threshold are left
                out until something that they read has moved, which is faster.

        Returns:
            X and y denoised, as arrays in the shape and floating-point type that they came in; and the gradients of
            x and of y, one array for each batch of each epoch, in the shape of the batch, divided by their joint
            length in each row or window, those within the threshold included. Lists are empty if not asked for.

        Raises:
            RuntimeError: If there was no `fit`.
            ConfigError: If `batch_size` is below 1, or the criterion does not return one number.
            DataError: If the model's predictions do not have the targets' shape.
        """
        if self._observed is None:
            raise RuntimeError("there are no data to denoise: call fit(X, y) before transform()")
        _require(batch_size, "batch_size", at_least=1)
        gradients_x: list[NDArray[Any]] = []
        gradients_y: list[NDArray[Any]] = []
        with ExitStack() as lent:
            lent.enter_context(torch.inference_mode(False))
            lent.enter_context(torch.enable_grad())
            for part in (self.model, self.criterion):
                if isinstance(part, nn.Module):
                    lent.enter_context(frozen(part, self.device))
            work = self._observed.on(self.device, dtype_of(self.model))
            passed = batch_size if save_gradients else self._rows_in_a_pass(work, batch_size)
            items = work.items
            for _ in range(max_epochs):
                masks = []
                for some in torch.split(items, work.at_once(passed)):
                    found = gradients(self.model, self.criterion, *work.gather(some), nr_threshold, passed)
                    masks.append(found.moves)
                    if save_gradients:
                        unit_x, unit_y = found.unit()
                        gradients_x += [part.cpu().numpy() for part in torch.split(unit_x, batch_size)]
                        if denoise_y:
                            gradients_y += [part.cpu().numpy() for part in torch.split(unit_y, batch_size)]
                    step_x, step_y, factor = found.steps(nrr)
                    work.add(some, step_x, step_y if denoise_y else None, factor)
                work.end_epoch()
                outside = torch.cat(masks)
                if not bool(outside.any()):
                    break
                if not save_gradients:
                    items = work.unsettled(items[outside])
        denoised_x, denoised_y = self._observed.as_came(work)
        return denoised_x, denoised_y, gradients_x, gradients_y

    def _rows_in_a_pass(self, work: Work, batch_size: int) -> int:
        """More than asked for where that is quicker and a mean over more rows points the same way."""
        if self.device.type != "cpu" or not type(self.criterion).__module__.startswith("torch."):
            return batch_size
        x, _ = work.gather(work.items[:1])
        return max(batch_size, batch_size_for(self.model, tuple(x.shape[1:]), x))

    def fit_transform(
        self,
        X: Data,
        y: Data | str | None = None,
        is_ts: bool = False,
        window_size: int | None = None,
        stride: int = 1,
        flattening: bool = False,
        nrr: float = 0.05,
        nr_threshold: float = 0.01,
        max_epochs: int = 100,
        denoise_y: bool = True,
        batch_size: int = 1000,
        save_gradients: bool = True,
        *,
        future: int = 1,
    ) -> Denoised:
        """`fit`, then `transform`."""
        self.fit(X, y, is_ts, window_size, future, stride, flattening)
        return self.transform(nrr, nr_threshold, max_epochs, denoise_y, batch_size, save_gradients)


@dataclass(frozen=True)
class _Observed:
    """The fitted data, floating point."""

    x: NDArray[Any]
    y: NDArray[Any]
    windows: Windows | None
    flattening: bool

    def on(self, device: torch.device, dtype: torch.dtype) -> Work:
        """A working copy. Data in double precision stay so, even where the model computes in single."""
        x, y = (_tensor(values, dtype).to(device) for values in (self.x, self.y))
        if self.windows is None:
            return RowWork(x, y, dtype)
        windows = replace(self.windows, starts=self.windows.starts.to(device))
        return SeriesWork(x, y, dtype, windows, self.flattening)

    def as_came(self, work: Work) -> tuple[NDArray[Any], NDArray[Any]]:
        return work.x.cpu().numpy().astype(self.x.dtype), work.y.cpu().numpy().astype(self.y.dtype)


def _tensor(values: NDArray[Any], dtype: torch.dtype) -> Tensor:
    own = values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64, order="C")
    return torch.from_numpy(own).to(torch.promote_types(torch.from_numpy(own).dtype, dtype))


def _paired(X: Data, y: Data | str | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays of floating-point numbers of our own."""
    if y is None:
        raise ValueError("DenoGrad needs targets: pass y, or the name of a column of the frame X")
    if isinstance(X, pd.DataFrame) and isinstance(y, (str, int, np.generic, list, tuple)):
        names: list[Any] = list(y) if isinstance(y, (list, tuple)) else [y]
        missing = [name for name in names if name not in X.columns]
        if missing:
            raise DataError(
                "X has no such target column",
                expected="names of columns of X",
                found=", ".join(map(repr, missing[:5])),
                where="y",
                remedy="pass values beside a frame as an array, a Series or a tensor",
            )
        y = X[names]
    x_values, y_values = _numbers(X, "X"), _numbers(y, "y")
    if len(x_values) != len(y_values) or not len(x_values):
        raise DataError(
            "X and y must have the same number of rows, and at least one",
            found=f"{len(x_values):,} rows of X and {len(y_values):,} of y",
        )
    return x_values, y_values


def _numbers(data: Data, name: str) -> NDArray[Any]:
    if isinstance(data, Tensor):
        tensor = data.detach().cpu()
        data = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        values = np.asarray(data)
        if values.dtype == object and isinstance(data, (pd.DataFrame, pd.Series)):
            values = data.to_numpy(dtype=np.float64, na_value=np.nan)
        elif values.dtype.kind in "iubO":
            values = values.astype(np.float64)
    except (TypeError, ValueError):
        values = np.empty(0, dtype=object)
    if values.dtype.kind != "f" or not values.ndim:
        raise DataError(
            f"{name} does not hold numbers",
            expected="numbers, one row after another",
            found=f"a {type(data).__name__}" + (f" of {data.dtype}" if isinstance(data, np.ndarray) else ""),
            where=name,
        )
    return np.array(values)


def _windows(steps: int, width: int | None, future: int, stride: int) -> Windows:
    if width is None:
        raise ValueError("a series is read in windows: pass window_size")
    _require(width, "window_size", at_least=1)
    _require(stride, "stride", at_least=1)
    _require(future, "future", at_least=0)
    if steps < width + future:
        raise TimeAxisError(
            "the series is too short for one window",
            expected=f"at least {width + future:,} steps (window_size {width} + future {future})",
            found=f"{steps:,}",
            where="X",
        )
    return Windows(torch.arange(0, steps - width - future + 1, stride), steps, width, (width + future - 1,))


def _require(value: int, name: str, at_least: int) -> None:
    if value < at_least:
        raise ConfigError(f"{name} is too small", expected=f"{at_least} or more", found=str(value), where=name)
