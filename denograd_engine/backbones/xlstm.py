"""An extended long short-term memory network, from the package of its authors."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor, nn

from denograd_engine.backbones.arguments import require_divisor, require_dropout, require_positive
from denograd_engine.backbones.shapes import series_shape
from denograd_engine.errors import ConfigError

PROJECTION, ROUNDED_TO = 2, 64
"""The package widens the state within a block by the first, up to the next multiple of the second."""


class XLSTM(nn.Module):
    """Residual blocks with a matrix memory and exponential gates, xLSTM[1:0] (Beck et al. 2024, section 2.3).

    The blocks are those of the package `xlstm`. Of its two cells, only the mLSTM is used: its parallel form is plain
    tensor algebra that can be exported. The sLSTM as published in PyTorch asks about the states of all items of a batch
    at once, so that an item's prediction may depend on the others. The normalisation after the last block is left out:
    it holds predictions within the range of the levels that were trained on.

    Args:
        input_shape: (window, columns).
        outputs: Number of targets.
        width: Width between blocks.
        layers: Number of blocks.
        heads: Number of memory heads; divides the width within a block.
        kernel: Taps of the causal convolution within a block.
        dropout: Share dropped while training.

    Raises:
        ConfigError: If the package is not installed, or cannot be imported.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        width: int = 32,
        layers: int = 1,
        heads: int = 4,
        kernel: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        window, columns = series_shape("xlstm", input_shape)
        require_positive(width=width, layers=layers, heads=heads, kernel=kernel)
        within = -(-PROJECTION * width // ROUNDED_TO) * ROUNDED_TO
        require_divisor("heads", heads, "the width within a block", within)
        require_dropout(dropout)
        self.embed = nn.Linear(columns, width)
        self.blocks = _stack(window, width, layers, heads, kernel, dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map windows of shape (items, window, columns) to (items, outputs)."""
        predicted: Tensor = self.head(self.blocks(self.embed(x))[:, -1])
        return predicted


def _stack(window: int, width: int, layers: int, heads: int, kernel: int, dropout: float) -> nn.Module:
    try:
        package = import_module("xlstm")
    except ImportError as error:
        raise ConfigError(
            "backbone 'xlstm' needs the package xlstm, which cannot be imported",
            found=str(error),
            where="backbone.kind",
            remedy="pip install 'prefect-denograd[xlstm]'",
        ) from None
    except OSError as error:
        raise ConfigError(
            "backbone 'xlstm' needs the package xlstm, which asks for a CUDA toolkit as soon as it is imported",
            found=str(error).splitlines()[0],
            where="backbone.kind",
            remedy="set CUDA_HOME to a CUDA toolkit, or to any folder: the code that needs it is not used here",
        ) from None
    cell = package.mLSTMLayerConfig(conv1d_kernel_size=kernel, num_heads=heads, proj_factor=PROJECTION)
    stack: nn.Module = package.xLSTMBlockStack(
        package.xLSTMBlockStackConfig(
            mlstm_block=package.mLSTMBlockConfig(mlstm=cell),
            context_length=window,
            num_blocks=layers,
            embedding_dim=width,
            add_post_blocks_norm=False,
            dropout=dropout,
        )
    )
    return stack
