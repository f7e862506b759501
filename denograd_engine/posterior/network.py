"""The learned part of a blind-spot prediction: how a clean cell is spread about what the linear part says of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from denograd_engine.posterior.gaussian import Blind
from denograd_engine.posterior.mixture import Mixture

NARROWEST, WIDEST = -4.0, 3.0
"""Logarithms of a component's standard deviation, in units of what the linear part leaves open."""


def _reading(kept: int, hidden: int, bias: bool = True) -> nn.Linear:
    """A layer that reads so many numbers: also none, which torch would warn of."""
    layer = nn.Linear(max(1, kept), hidden, bias)
    if not kept:
        layer.weight = nn.Parameter(layer.weight[:, :0].detach())
    return layer


class BlindNet(nn.Module):
    """A residual network that sees the cleaned context of a cell without the cell itself.

    The first layer is computed once an item: taking one's own cell out of the cleaned context is a step along a known
    direction, so that every cell of the item costs one addition there.

    Args:
        cells: Predicted cells of an item, P.
        kept: Numbers of a cleaned context, n: none where noise hangs together from step to step.
        views: Linear predictions of each cell, V.
        hidden: Units of each layer.
        depth: Residual blocks.
        dropout: Share of units dropped while training, the same for all cells of an item.
        components: Of each cell's mixture, M.
    """

    def __init__(
        self, cells: int, kept: int, views: int, hidden: int, depth: int, dropout: float, components: int
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = _reading(kept, hidden)
        self.absent = _reading(kept, hidden, bias=False)
        self.which = nn.Parameter(0.3 * torch.randn(cells, hidden))
        self.said = nn.Parameter(0.3 * torch.randn(cells, views, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(depth + 1))
        self.blocks = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.out = nn.Parameter(torch.zeros(3, components, cells, hidden))
        start = torch.zeros(3, components, cells)
        if components > 1:
            start[2] = torch.linspace(-1.0, 1.2, components)[:, None]
        self.bias = nn.Parameter(start)

    def forward(
        self,
        blind: Blind,
        observed: Tensor,
        present: Tensor,
        open_: Tensor,
        generator: torch.Generator | None = None,
        cells: Tensor | None = None,
    ) -> Mixture:
        """The mixture of each cell.

        Args:
            blind: What the linear part says.
            observed: The cells as measured, shape (items, P).
            present: Which of them the context holds, shape (items, P).
            open_: Standard deviation that the linear part leaves open, shape (P,).
            generator: Which units to drop, while training; None drops none.
            cells: Positions of those that are asked about; None asks about all P.
        """
        some = slice(None) if cells is None else cells
        open_, views = open_[some], blind.predicted[:, :, some]
        predicted = views[:, 0]
        away = torch.where(present, blind.predicted[:, 0] - observed, 0.0)[:, some]
        own = functional.linear(blind.gain[:, some], self.first.weight)[blind.pattern]
        shared = self.first(blind.cleaned) + self.absent(blind.missing.to(blind.cleaned))
        said = torch.cat([predicted[:, None], views[:, 1:] - predicted[:, None]], dim=1)
        hidden = shared[:, None] + away[:, :, None] * own + self.which[some]
        hidden = hidden + torch.einsum("ivp,pvh->iph", said, self.said[some])
        for norm, block in zip(self.norms, self.blocks, strict=False):
            hidden = hidden + block(self._dropped(functional.silu(norm(hidden)), generator))
        last = self._dropped(functional.silu(self.norms[-1](hidden)), generator)
        found = torch.einsum("iph,kmph->ikmp", last, self.out[:, :, some]) + self.bias[:, :, some]
        weight, offset, scale = found.unbind(dim=1)
        deviation = open_ * scale.clamp(NARROWEST, WIDEST).exp()
        return Mixture(weight.log_softmax(dim=1), predicted[:, None] + offset * open_, deviation.square())

    def _dropped(self, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        """Its own dropout, because several networks are fitted at once and torch's has one stream for all."""
        if generator is None or not self.dropout:
            return hidden
        shape = (len(hidden), 1, hidden.shape[2])
        kept = torch.rand(shape, generator=generator, device=hidden.device) >= self.dropout
        return hidden * (kept / (1 - self.dropout))
