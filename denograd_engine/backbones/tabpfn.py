"""A pretrained network that predicts from rows which it is shown, from the package of its authors."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_positive
from denograd_engine.backbones.shapes import table_shape
from denograd_engine.errors import ConfigError


class TabPFN(nn.Module):
    """In-context regression: the mean of the predictive distribution, given a context of rows (Hollmann et al. 2025).

    No weight is trained. `condition` takes rows of the table as the context, and the network's memory of them, its keys
    and values, is computed once. A query row attends to the context alone, so that its prediction depends on no other
    query and is differentiable in the row.

    Unlike the package's own regressor, it reads standardised columns as they are and runs once, since the power
    transforms, quantiles and shuffled repetitions before that would cut or roughen the gradient. Each target is
    predicted by itself.

    The package is under Apache-2.0, the weights are not: those of v2 are under the Prior Labs License, Apache-2.0 with
    a duty of attribution; those of v2.5 and later are for non-commercial use only, which covers what they predict. They
    are read from the package's cache or from a path, and never downloaded here. `torch.export` cannot follow this
    network for any number of items: its authors' code fixes that number while it is traced. Leave it in single
    precision: v2 draws the embeddings of its columns anew for another type, and they are not those it was trained with.

    Args:
        input_shape: (columns,).
        outputs: Number of targets.
        weights: Path of a regression checkpoint; None takes the one of `version` in the package's cache.
        version: Release of the weights: v2, v2.5, v2.6, v3, v3.5 or v3.5-fast.
        context: Rows shown to the network, at most. Time and memory grow in proportion.

    Raises:
        ConfigError: If the package cannot be imported, or the weights are not there or cannot be read.
    """

    rows: Tensor
    labels: Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        weights: str | None = None,
        version: str = "v2",
        context: int = 1000,
    ) -> None:
        super().__init__()
        columns = table_shape("tabpfn", input_shape)
        require_positive(context=context)
        self.outputs, self.context = outputs, context
        self.network, self.distribution, self.temperature = _load(weights, version)
        self.register_buffer("rows", torch.empty(0, columns))
        self.register_buffer("labels", torch.empty(0, outputs))
        self.memory: Any = None
        self.memory_home: tuple[torch.device, torch.dtype] | None = None
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def condition(self, x: Tensor, y: Tensor) -> None:
        """Show it rows with their targets; it takes the first `context` of them.

        Args:
            x: Shape (items, columns).
            y: Shape (items, outputs).
        """
        self.rows, self.labels, self.memory = x[: self.context].detach(), y[: self.context].detach(), None

    def forward(self, x: Tensor) -> Tensor:
        """Map rows of shape (items, columns) to (items, outputs); before it was shown any rows, to the mean, 0."""
        if not len(self.rows):
            return x.new_zeros(len(x), self.outputs)
        shown, center, spread = self._context()
        logits: Tensor = self.network(
            self._queries(x, shown), None, kv_cache=self.memory, x_is_test_only=True, **_options()
        )
        predicted: Tensor = self.distribution.mean(logits / self.temperature)
        return predicted * spread + center

    def _context(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which columns vary in the context, and the targets' mean and spread there; the memory is up to date."""
        shown = (self.rows != self.rows[0]).any(dim=0)
        spread, center = torch.std_mean(self.labels, dim=0, correction=0)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        home = (self.rows.device, self.rows.dtype)
        if self.memory is None or self.memory_home != home:
            labels = (self.labels - center) / spread
            rows = torch.cat([self.rows, self.rows[:1]])
            with torch.no_grad():
                _, self.memory = self.network(self._queries(rows, shown), labels, return_kv_cache=True, **_options())
            self.memory_home = home
        return shown, center, spread

    def _queries(self, x: Tensor, shown: Tensor) -> Tensor:
        """One table for each target, shape (items, outputs, columns); constant columns tell the network nothing."""
        return x[:, shown].unsqueeze(1).expand(-1, self.outputs, -1)


def _make_room(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a context of any length be loaded, and the memory of the present one be forgotten."""
    assert isinstance(module, TabPFN)
    for name in ("rows", "labels"):
        if prefix + name in state:
            setattr(module, name, getattr(module, name).new_empty(state[prefix + name].shape))
    module.memory = None


def _options() -> dict[str, Any]:
    plain = import_module("tabpfn.architectures.interface").PerformanceOptions()
    return {"task_type": "regression", "performance_options": plain}


def _load(weights: str | None, version: str) -> tuple[nn.Module, Any, float]:
    """The network, the distribution that its outputs stand for, and the temperature of that."""
    try:
        loading = import_module("tabpfn.model_loading")
        versions = [one.value for one in import_module("tabpfn.constants").ModelVersion]
    except ImportError as error:
        raise ConfigError(
            "backbone 'tabpfn' needs the package tabpfn, which cannot be imported",
            found=str(error),
            where="backbone.kind",
            remedy="pip install 'prefect-denograd[tabpfn]'",
        ) from None
    if version not in versions:
        raise ConfigError(
            "there are no such TabPFN weights",
            expected=" or ".join(versions),
            found=repr(version),
            where="backbone.arguments.version",
        )
    (path, *_), *_ = loading.resolve_model_path(weights, "regressor", version)
    if not Path(path).is_file():
        raise ConfigError(
            "the weights of TabPFN are not there, and are not downloaded without your consent to their licence",
            expected="a regression checkpoint of TabPFN",
            found=f"no file {path}",
            where="backbone.arguments.weights",
            remedy=f"read the licence at https://huggingface.co/Prior-Labs, and put {Path(path).name} there, "
            "or give its path as backbone.arguments.weights",
        )
    try:
        network, distribution, _, settings = loading.load_model(path=Path(path), estimator_type="regressor")
    except Exception as error:  # whatever a damaged or foreign file makes torch, safetensors or pydantic raise
        raise ConfigError(
            "the weights of TabPFN cannot be read",
            expected="a regression checkpoint of TabPFN",
            found=f"{type(error).__name__} while reading {path}",
            where="backbone.arguments.weights",
            remedy="download them again",
        ) from None
    return network, distribution, float(settings.SOFTMAX_TEMPERATURE)
