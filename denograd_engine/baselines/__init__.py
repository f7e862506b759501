"""Classical denoisers to compare with, by name. A new one is a file here and a line in the registry.

Each is used as a competent practitioner would use it: on the noisy data alone, with whatever it has to choose chosen
from them. Where the size of the noise is known, it may use it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from denograd_engine.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REGISTRY: Mapping[str, str] = {
    "pca": "denograd_engine.baselines.pca:PrincipalComponents",
    "wavelet": "denograd_engine.baselines.wavelet:Wavelet",
    "emd": "denograd_engine.baselines.emd:ModeDecomposition",
    "kalman": "denograd_engine.baselines.kalman:Kalman",
    "moving_average": "denograd_engine.baselines.moving_average:MovingAverage",
    "autoencoder": "denograd_engine.baselines.autoencoder:Autoencoder",
    "dn_resnet": "denograd_engine.baselines.dn_resnet:DNResNet",
    "knn": "denograd_engine.baselines.knn:NearestRows",
}
"""Class of each denoiser, as module:name. Constructed as `cls(seed)`."""


class Baseline(ABC):
    """A denoiser of standardised cells.

    It learns what it needs in `fit` and keeps it; `denoise` learns nothing. The same seed gives the same result, and
    neither method changes its arguments or a global random state.

    Args:
        seed: Of whatever is random in it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def fit(self, cells: NDArray[np.float64], noise: NDArray[np.float64], runs: tuple[int, ...] | None) -> None:
        """Learn from noisy data.

        Args:
            cells: Shape (rows, P), standardised; NaN where missing.
            noise: Shape (P,), noise std of each column in the same unit: 0 where it carries none, NaN where that is
                unknown.
            runs: Lengths of the unbroken runs of a series, see `windows.Layout`; None for a table.
        """

    @abstractmethod
    def denoise(self, cells: NDArray[np.float64], runs: tuple[int, ...] | None) -> NDArray[np.float64]:
        """Denoise these rows, which need not be those that it was fitted on; whole columns of them may be missing.

        Nothing passes from one run to another.

        Args:
            cells: Shape (rows, P), as in `fit`.
            runs: As in `fit`.

        Returns:
            Shape (rows, P): cells without noise and missing cells as they were, the others denoised.
        """


def baseline(name: str, seed: int = 0) -> Baseline:
    """The denoiser called `name`.

    Raises:
        ConfigError: If there is none, or the library that it stands on cannot be imported.

    >>> import numpy as np
    >>> noisy = np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [-1.0]])
    >>> average = baseline("moving_average")
    >>> average.fit(noisy, noise=np.array([1.0]), runs=(6,))
    >>> average.denoise(noisy, runs=(6,)).round(2).ravel().tolist()
    [0.33, 0.0, 0.2, -0.2, 0.0, -0.33]
    """
    if name not in REGISTRY:
        raise ConfigError(f"there is no baseline {name!r}", expected=" or ".join(REGISTRY), where="baseline")
    module, attribute = REGISTRY[name].split(":")
    try:
        chosen: Baseline = getattr(import_module(module), attribute)(seed)
    except ImportError as error:
        raise ConfigError(
            f"baseline {name!r} needs a library that cannot be imported",
            found=str(error),
            where="baseline",
            remedy="pip install 'prefect-denograd[bench]'",
        ) from None
    return chosen
