"""Self-attention over a table's columns or a window's steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_divisor, require_dropout, require_positive
from denograd_engine.errors import ConfigError


class Transformer(nn.Module):
    """Tokens, encoder layers, and a linear head on what a learned summary token gathers.

    A table's columns are a token each (Gorishniy et al. 2021). A window's tokens are patches of consecutive steps with
    a learned position (Nie et al. 2023), but unlike theirs, a patch holds all columns, since the targets depend on
    them together.

    Args:
        input_shape: (columns,), or (window, columns).
        outputs: Number of targets.
        width: Width of a token.
        layers: Number of encoder layers.
        heads: Number of attention heads; divides `width`.
        patch: Steps of a patch, for series; divides the window. None takes the most, up to 4, that do.
        dropout: Share dropped while training.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        patch: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_positive(width=width, layers=layers, heads=heads, patch=1 if patch is None else patch)
        require_divisor("heads", heads, "the width", width)
        require_dropout(dropout)
        self.tokens: nn.Module
        if len(input_shape) == 2:
            window, columns = input_shape
            patch = next(steps for steps in (4, 3, 2, 1) if window % steps == 0) if patch is None else patch
            require_divisor("patch", patch, "the window", window)
            self.tokens = PatchTokens(window, columns, patch, width)
        else:
            if patch is not None:
                raise ConfigError(
                    "backbone.arguments.patch is for series, and these data are a table",
                    found=str(patch),
                    where="backbone.arguments.patch",
                    remedy="leave it out, or declare the time axis under series",
                )
            self.tokens = ColumnTokens(input_shape[0], width)
        self.summary = nn.Parameter(torch.empty(width).uniform_(-(width**-0.5), width**-0.5))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, dropout) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs of shape (items, *input_shape) to (items, outputs)."""
        tokens = self.tokens(x)
        summary = self.summary.expand(tokens.shape[0], 1, -1)
        predicted: Tensor = self.head(self.layers(torch.cat([tokens, summary], dim=1))[:, -1])
        return predicted


class ColumnTokens(nn.Module):
    """A direction and an offset for each column (Gorishniy et al. 2021, section 3.3)."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.direction = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map (items, columns) to (items, columns, width)."""
        return x.unsqueeze(2) * self.direction + self.offset


class PatchTokens(nn.Module):
    """A linear map of the cells of each patch, and a learned position."""

    def __init__(self, window: int, columns: int, patch: int, width: int) -> None:
        super().__init__()
        self.patches = window // patch
        self.project = nn.Linear(patch * columns, width)
        self.position = nn.Parameter(0.02 * torch.randn(window // patch, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (items, window, columns) to (items, window / patch, width)."""
        projected: Tensor = self.project(x.reshape(x.shape[0], self.patches, -1))
        return projected + self.position


class EncoderLayer(nn.Module):
    """Attention, then a GELU network, each on normalised tokens and added to them (Xiong et al. 2020).

    torch's own layer has a fast path for inference that an export may record, and that knows no gradient.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (items, tokens, width) to the same shape."""
        projected: Tensor = self.project(self.before_attention(tokens))
        parts = projected.view(*projected.shape[:2], 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        tokens = tokens + self.mix(attended.transpose(1, 2).flatten(2))
        refined: Tensor = tokens + self.network(tokens)
        return refined
