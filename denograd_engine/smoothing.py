"""Averaging gradients over perturbed copies of the inputs, of the weights, or of both.

Sources: SmoothGrad (Smilkov et al. 2017) for the inputs; NoiseGrad and FusionGrad (Bykov et al. 2022) for the weights,
each times N(1, sigma^2), and for both. Deviation: the perturbations are drawn once and are the same for every item, so
that the smoothed gradient is a fixed function of the cells, whatever the batch. The weights themselves are never
touched: perturbed copies are evaluated beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from denograd_engine.criteria import Criterion
from denograd_engine.devices import in_parts
from denograd_engine.errors import ConfigError
from denograd_engine.problem import Problem

LOSS_OF_SKILL = 0.05
"""Share of its skill that the backbone loses at the automatic weight noise."""
PROBED_ITEMS = 1024
"""Items on which that skill is measured."""


@dataclass(frozen=True)
class Smoothing:
    """Which gradients are averaged.

    Attributes:
        kind: `smoothgrad` perturbs the inputs, `noisegrad` the weights, `fusiongrad` both.
        samples: Perturbed copies; the time of a pass grows with them.
        sigma_input: Standard deviation of the noise on the inputs, standardised.
        sigma_weights: Standard deviation of the factors on the weights; "auto" takes where the backbone's skill on
            these data falls by 5%.
        seed: Of the perturbations.
    """

    kind: Literal["smoothgrad", "noisegrad", "fusiongrad"]
    samples: int = 8
    sigma_input: float = 0.1
    sigma_weights: float | Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("smoothgrad", "noisegrad", "fusiongrad"):
            raise ConfigError(
                f"there is no smoothing {self.kind!r}",
                expected="smoothgrad, noisegrad or fusiongrad",
                where="refine.smoothing.kind",
            )
        if self.samples < 1:
            raise ConfigError(
                "refine.smoothing.samples must be at least 1",
                found=str(self.samples),
                where="refine.smoothing.samples",
            )

    def on(self, module: nn.Module, criterion: Criterion, probe: Problem) -> Smoother:
        """The perturbations for this backbone, on its device.

        Args:
            module: Frozen.
            criterion: The loss.
            probe: Data on which the automatic weight noise is found.
        """
        generator = torch.Generator().manual_seed(self.seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            noise = torch.randn(self.samples, *shape, generator=generator, dtype=torch.float64)
            return noise.to(probe.cells)

        inputs = self.sigma_input * draw(probe.input_shape) if self.kind != "noisegrad" else None
        weights = None
        if self.kind != "smoothgrad":
            weights = {name: draw(tuple(weight.shape)) for name, weight in module.named_parameters()}
        smoother = Smoother(module, inputs, weights, 0.0)
        if weights is None:
            return smoother
        sigma = self.sigma_weights
        return Smoother(module, inputs, weights, _sigma(smoother, criterion, probe) if sigma == "auto" else sigma)


class Smoother:
    """Gradients averaged over fixed perturbations.

    Args:
        module: Frozen.
        inputs: Added to every item's input, shape (samples, *input_shape); None leaves it.
        weights: Standard normal numbers of the shape of each weight, (samples, ...); None leaves the weights.
        sigma: Each weight is multiplied by 1 + sigma times its number.
    """

    def __init__(
        self, module: nn.Module, inputs: Tensor | None, weights: dict[str, Tensor] | None, sigma: float
    ) -> None:
        self.module, self.sigma, self._inputs, self._noise = module, sigma, inputs, weights
        self.samples = len(inputs) if inputs is not None else len(next(iter((weights or {}).values())))
        originals = dict(module.named_parameters())
        self._weights = None
        if weights is not None:
            self._weights = {name: originals[name].detach() * (1 + sigma * noise) for name, noise in weights.items()}
        self._vectorised = True

    def with_sigma(self, sigma: float) -> Smoother:
        """The same perturbations, the weights' of another size."""
        return Smoother(self.module, self._inputs, self._noise, sigma)

    def gradient(self, criterion: Criterion, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean gradients of each item's loss in x and, for numbers, in y."""
        by_x = self._mean(criterion.loss, x, y)
        pulls = [criterion.pull(one, y)[1] for one in self.predicted(x)]
        given = [pull for pull in pulls if pull is not None]
        return by_x, torch.stack(given).mean(dim=0) if given else None

    def jacobian(self, criterion: Criterion, x: Tensor, y: Tensor) -> list[Tensor]:
        """Mean derivatives of each residual in x."""
        with torch.no_grad():
            count = criterion.residual(self.module(x[:1]).reshape(1, -1), y[:1]).shape[1]

        def residual(at: int) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda predicted, targets: criterion.residual(predicted, targets)[:, at]

        return [self._mean(residual(at), x, y) for at in range(count)]

    def predicted(self, x: Tensor) -> list[Tensor]:
        """What each perturbed copy predicts, shape (items, outputs)."""
        with torch.no_grad():
            return [self._call(at, self._moved(x, at)).reshape(len(x), -1) for at in range(self.samples)]

    def _mean(self, value: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if self._vectorised:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    return self._all_at_once(value, x, y).mean(dim=0)
            except (RuntimeError, UserWarning):  # recurrent layers, for one, have no batching rule
                self._vectorised = False
        total = torch.zeros_like(x)
        for at in range(self.samples):
            leaf = self._moved(x, at).requires_grad_()
            with torch.enable_grad():
                summed = value(self._call(at, leaf).reshape(len(x), -1), y).sum()
                total += torch.autograd.grad(summed, leaf)[0]
        return total / self.samples

    def _all_at_once(self, value: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        def summed(weights: dict[str, Tensor], moved: Tensor) -> Tensor:
            predicted = torch.func.functional_call(self.module, weights, (moved,)) if weights else self.module(moved)
            return value(predicted.reshape(len(x), -1), y).sum()

        weights = self._weights or {}
        moved = x if self._inputs is None else x + self._inputs[:, None]
        axes = (dict.fromkeys(weights, 0), None if self._inputs is None else 0)
        gradients: Tensor = torch.func.vmap(torch.func.grad(summed, argnums=1), in_dims=axes)(weights, moved)
        return gradients

    def _moved(self, x: Tensor, at: int) -> Tensor:
        return x.detach().clone() if self._inputs is None else x.detach() + self._inputs[at]

    def _call(self, at: int, x: Tensor) -> Tensor:
        if self._weights is None:
            plain: Tensor = self.module(x)
            return plain
        weights = {name: copies[at] for name, copies in self._weights.items()}
        perturbed: Tensor = torch.func.functional_call(self.module, weights, (x,))
        return perturbed


def _sigma(smoother: Smoother, criterion: Criterion, probe: Problem) -> float:
    """The weight noise at which the skill has fallen by `LOSS_OF_SKILL`, found by bisection of its logarithm."""
    items = probe.known[:: max(1, len(probe.known) // PROBED_ITEMS)]
    x, y = probe.gather(items)

    def skill(predictions: Callable[[Tensor], list[Tensor]]) -> float:
        parts: list[Tensor] = []
        in_parts(lambda part: parts.append(torch.stack(predictions(x[part]))), len(x), len(x))
        return float(torch.stack([criterion.skill(one, y).mean() for one in torch.cat(parts, dim=1)]).mean())

    with torch.no_grad():
        aim = (1 - LOSS_OF_SKILL) * skill(lambda part: [smoother.module(part).reshape(len(part), -1)])
    low, high = 1e-4, 1.0
    for _ in range(12):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if skill(smoother.with_sigma(middle).predicted) > aim else (low, middle)
    return low
