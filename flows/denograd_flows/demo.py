"""The demonstration: real data from well-kept packages, known noise, the ordinary pipeline, the truth beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from denograd_engine.errors import ConfigError
from denograd_flows.clean_flow import run_stages
from denograd_flows.outcome import Outcome
from denograd_tasks.home import home
from denograd_tasks.records import Refined, Snapshot
from denograd_tasks.settings import Settings, load_settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import read_table, to_frame

if TYPE_CHECKING:
    import pandas as pd

TABLE = """\
# Nuclei of breast tissue, 569 samples of 30 measurements (UCI Breast Cancer Wisconsin, from scikit-learn),
# with Gaussian noise of {noise:g} std added to every column.
dataset: {dataset}
source: nuclei-noisy.parquet
columns:
  target: [worst perimeter]
  noise:
{stds}
{rule}
seed: {seed}
"""

SERIES = """\
# Hourly weather at Greensboro, a typical year (NREL TMY3, from pvlib), with Gaussian noise of {noise:g} std added to
# every column.
dataset: {dataset}
source: weather-noisy.parquet
columns:
  target: [temp_air]
  noise:
{stds}
series:
  time: time
  window: 24
{rule}
seed: {seed}
"""

QUICKER = (
    "# Of rule posterior, which declared noise brings; the default is 10 folds, which takes longer.\n"
    "refine: {arguments: {folds: 4}}"
)
DENOGRAD = "refine: {rule: denograd}"
LSTM = DENOGRAD + "\nbackbone: {kind: lstm, arguments: {hidden: 32}}"


def run_demo(seed: int, noise: float, only: str | None) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """The demonstrations: a title, and what to call."""
    if only in (None, "table"):
        title = "A table: 569 samples, 30 measurements; rule "
        table = _Demonstration("nuclei", TABLE, nuclei, seed, noise)
        yield f"{title}posterior", lambda: table.run("demo-nuclei", "")
        yield f"{title}denograd", lambda: table.run("demo-nuclei-denograd", DENOGRAD)
    if only in (None, "series"):
        title = "A series: one year of hourly weather; rule "
        series = _Demonstration("weather", SERIES, weather, seed, noise)
        yield f"{title}posterior", lambda: series.run("demo-weather", QUICKER)
        yield f"{title}denograd", lambda: series.run("demo-weather-denograd", LSTM)


def nuclei() -> pd.DataFrame:
    """The table: 569 rows, 30 columns, clean."""
    from sklearn.datasets import load_breast_cancer

    table: pd.DataFrame = load_breast_cancer(as_frame=True).data
    return table


def weather() -> pd.DataFrame:
    """The series: 8,760 hours, six measured columns, clean.

    Raises:
        ConfigError: If pvlib is not installed.
    """
    try:
        import pvlib
    except ImportError:
        raise ConfigError(
            "the demonstration's data are not installed", remedy="pip install 'prefect-denograd[demo]'"
        ) from None
    file = Path(pvlib.__file__).parent / "data" / "723170TYA.CSV"
    hours, _ = pvlib.iotools.read_tmy3(file, coerce_year=1990, map_variables=True)
    hours.index = hours.index.tz_localize(None)
    columns = ["temp_air", "temp_dew", "relative_humidity", "pressure", "wind_speed", "ghi"]
    series: pd.DataFrame = hours[columns].astype(float).sort_index().reset_index(names="time")
    return series


@flow(name="demo", flow_run_name="demo", validate_parameters=False)
def _clean_with_truth(settings: Settings, clean_data: str) -> Outcome:
    """The ordinary stages, compared with the truth before the report is drawn."""
    return run_stages(settings, truth=lambda snapshot, refined: _removed(snapshot, refined, settings, clean_data))


@dataclass(frozen=True)
class _Demonstration:
    """Clean data, to be made noisy and cleaned again.

    Attributes:
        name: Of its files.
        template: Of its configuration.
        load: Gives the data.
        seed: Of the noise and the training.
        noise: In std of each column.
    """

    name: str
    template: str
    load: Callable[[], pd.DataFrame]
    seed: int
    noise: float

    def run(self, dataset: str, rule: str) -> Outcome:
        """Write data and configuration, and run the ordinary stages."""
        import numpy as np

        from denograd_engine.noise import add_gaussian_noise

        folder = home() / "demo"
        folder.mkdir(parents=True, exist_ok=True)
        clean, truth = self.load(), folder / f"{self.name}-clean.parquet"
        measured = [str(column) for column in clean.select_dtypes(np.number)]
        clean.to_parquet(truth, index=False)
        noisy = add_gaussian_noise(clean, measured, self.noise, self.seed)
        noisy.to_parquet(folder / f"{self.name}-noisy.parquet", index=False)
        stds = "\n".join(f"    {name}: {self.noise * clean[name].std():.6g}" for name in measured)
        config = folder / f"{dataset}.yaml"
        config.write_text(
            self.template.format(dataset=dataset, noise=self.noise, stds=stds, rule=rule, seed=self.seed),
            encoding="utf-8",
        )
        return _clean_with_truth(load_settings(config), str(truth))


def _removed(snapshot: Snapshot, refined: Refined, settings: Settings, clean_data: str) -> dict[str, float]:
    """Share of the noise removed: 1 - RMSE(refined, clean) / RMSE(noisy, clean)."""
    import pandas as pd

    from denograd_engine.evaluate import recovery

    store = open_store(refined.root)
    staged = refined.located()
    assert staged is not None
    noisy = to_frame(read_table(store, snapshot.files[0].path))
    after = to_frame(read_table(store, staged.path))
    targets = list(settings.columns.target)
    features = [str(name) for name in noisy.select_dtypes("number") if name not in targets]
    found = recovery(pd.read_parquet(clean_data), noisy, after, features, targets)
    return {"noise removed, target": 1 - found.targets, "noise removed, features": 1 - found.features}
