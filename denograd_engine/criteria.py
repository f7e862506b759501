"""How far an item is from what the backbone predicts, and what moving its cells does about it.

Everything here is computed item by item: no item's gradient depends on which others share its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from denograd_engine.errors import ConfigError
from denograd_engine.user_code import CRITERION, is_custom, load


class Criterion(ABC):
    """A loss of predictions and targets."""

    @abstractmethod
    def loss(self, predicted: Tensor, y: Tensor) -> Tensor:
        """The loss of each item, summed over its targets, shape (items,)."""

    @abstractmethod
    def pull(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients of `loss` in the predictions and, for numbers, in the targets, shaped like those."""

    def residual(self, predicted: Tensor, y: Tensor) -> Tensor:
        """What the gate compares with tau: f(x) - y for numbers, shape (items, T)."""
        return predicted - y

    def skill(self, predicted: Tensor, y: Tensor) -> Tensor:
        """How much better than a constant: R2 of each target, shape (T,). 1 is perfect, 0 no better than the mean."""
        spread = y.var(dim=0, correction=0).clamp_min(torch.finfo(y.dtype).tiny)
        return 1 - (predicted - y).square().mean(dim=0) / spread

    def slopes(self, predicted: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Derivatives of each residual in the predictions and in the targets."""
        unit = torch.eye(y.shape[1], dtype=predicted.dtype, device=predicted.device)
        return [(one.expand_as(predicted), -one.expand_as(predicted)) for one in unit]


class SquaredError(Criterion):
    """Sum of r^2 over the targets, r = f(x) - y."""

    def loss(self, predicted: Tensor, y: Tensor) -> Tensor:
        return (predicted - y).square().sum(dim=1)

    def pull(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """2 r, and -2 r."""
        slope = 2.0 * (predicted - y)
        return slope, -slope


class AbsoluteError(Criterion):
    """Sum of |r| over the targets."""

    def loss(self, predicted: Tensor, y: Tensor) -> Tensor:
        return (predicted - y).abs().sum(dim=1)

    def pull(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sign of r, and its opposite."""
        slope = (predicted - y).sign()
        return slope, -slope


class Huber(Criterion):
    """Squared near zero, absolute beyond one standardised unit (Huber 1964, delta = 1)."""

    def loss(self, predicted: Tensor, y: Tensor) -> Tensor:
        return functional.huber_loss(predicted, y, reduction="none").sum(dim=1)

    def pull(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """r, clamped to [-1, 1], and its opposite."""
        slope = (predicted - y).clamp(-1.0, 1.0)
        return slope, -slope


class CrossEntropy(Criterion):
    """-log p of the given class: x moves, classes stay.

    The gate compares tau with the loss itself, so that tau = 0.1 leaves an item alone once the given class has a
    probability of exp(-0.1) = 0.90. Targets are class numbers, shape (items, 1).
    """

    def loss(self, predicted: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = functional.cross_entropy(predicted, y.squeeze(1).long(), reduction="none")
        return loss

    def pull(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, None]:
        """Predicted probabilities minus the indicator of y."""
        slope = predicted.softmax(dim=1)
        slope.scatter_add_(1, y.long(), slope.new_full((len(slope), 1), -1.0))
        return slope, None

    def residual(self, predicted: Tensor, y: Tensor) -> Tensor:
        return self.loss(predicted, y)[:, None]

    def skill(self, predicted: Tensor, y: Tensor) -> Tensor:
        """McFadden's pseudo-R2, shape (1,): the share of the entropy of the class frequencies that is explained."""
        share = torch.bincount(y.squeeze(1).long(), minlength=predicted.shape[1]).to(predicted) / len(y)
        entropy = (-torch.special.xlogy(share, share).sum()).clamp_min(torch.finfo(predicted.dtype).tiny)
        skill: Tensor = 1 - self.loss(predicted, y).mean() / entropy
        return skill[None]

    def slopes(self, predicted: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        slope, _ = self.pull(predicted, y)
        return [(slope, torch.zeros_like(y, dtype=slope.dtype))]


class Custom(Criterion):
    """A user's function of predictions and targets.

    Args:
        function: Maps two tensors of shape (batch, T) to a loss, one number or one for each entry. It is asked about
            one item at a time (vectorised), so that averaging over the batch is harmless.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def loss(self, predicted: Tensor, y: Tensor) -> Tensor:
        losses: Tensor = torch.func.vmap(self._of_one, randomness="different")(predicted, y)
        return losses

    def pull(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.func.grad(self._of_one, argnums=(0, 1))
        slope, slope_y = torch.func.vmap(both, randomness="different")(predicted, y)
        return slope, slope_y

    def _of_one(self, predicted: Tensor, y: Tensor) -> Tensor:
        return self.function(predicted[None], y[None]).sum()


REGISTRY: dict[str, type[Criterion]] = {
    "mse": SquaredError,
    "l1": AbsoluteError,
    "huber": Huber,
    "cross_entropy": CrossEntropy,
}


def criterion(named: str | Callable[[Tensor, Tensor], Tensor] | Criterion) -> Criterion:
    """The criterion called so, or a user's own.

    Args:
        named: A name of `REGISTRY`, a function or class of the user's own such as "mypkg.losses:my_loss", or the
            function itself.

    Raises:
        ConfigError: If there is no such criterion.
    """
    if isinstance(named, Criterion):
        return named
    if callable(named):
        return Custom(named)
    if named in REGISTRY:
        return REGISTRY[named]()
    if not is_custom(named):
        raise ConfigError(
            f"there is no criterion {named!r}",
            expected=", ".join(REGISTRY) + ", or a function of yours such as mypkg.losses:my_loss",
            where=CRITERION.where,
        )
    found = load(named, CRITERION)
    return Custom(found() if isinstance(found, type) else found)
