"""The configuration: validated once, here; the engine gets frozen dataclasses.

Unknown keys are refused, with the nearest valid one named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from denograd_engine.errors import ConfigError
from denograd_tasks.blocks import REFERENCE
from denograd_tasks.home import default_root, default_tracking_uri
from denograd_tasks.kinds import CriterionName, Kind, RuleName, registered
from denograd_tasks.kinds import anchored as anchored_kind
from denograd_tasks.lineage_events.settings import LineageSettings
from denograd_tasks.rule import Conflict, conflict_in, key_conflict
from denograd_tasks.schedule import ScheduleSettings
from denograd_tasks.settings_errors import config_error


def _one_step(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One error for a union that pydantic would report once for each member."""
    try:
        return validate(given)
    except ValidationError:
        raise PydanticCustomError("step_length", "'auto', or a number above 0") from None


def _share_of_the_way(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(given)
    except ValidationError:
        raise PydanticCustomError("strength", "'auto', or a number above 0 and at most 1") from None


def _steps_ahead(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(given)
    except ValidationError:
        raise PydanticCustomError("steps_ahead", "a whole number of at least 1, or a list of them") from None


Names = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
Limit = float | None
StepLength = Annotated[Literal["auto"] | Annotated[float, Field(gt=0)], WrapValidator(_one_step)]
Strength = Annotated[Literal["auto"] | Annotated[float, Field(gt=0, le=1)], WrapValidator(_share_of_the_way)]
Ahead = Annotated[int, Field(ge=1)]
Horizons = Annotated[Ahead | Annotated[tuple[Ahead, ...], Field(min_length=1)], WrapValidator(_steps_ahead)]
Pause = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) in (int, float) else given)]


OF_DEPLOYMENT = ("schedule", "watch", "work_pool", "notify", "on_conflict", "lineage")
"""Settings that no result depends on."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColumnSettings(_Section):
    """Roles of the columns; those named nowhere get one by their type and values."""

    target: Names = Field(min_length=1, description="The column or columns to predict; refined where continuous.")
    feature: Names = Field((), description="Measured columns to refine, whatever their values look like.")
    frozen: Names = Field((), description="Columns that the model sees and nothing changes.")
    ignored: Names = Field((), description="Columns that are carried along unseen.")
    key: Names = Field((), description="Columns that tell the rows of a table apart; ignored unless they are frozen.")
    bounds: dict[str, tuple[Limit, Limit]] = Field(
        default_factory=dict, description="Lowest and highest value of refined columns; null is unbounded."
    )
    noise: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Standard deviation of the noise of refined columns, in their own units."
    )
    noise_correlation: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Steps over which the noise hangs together, of drifting sensors in a series."
    )
    task: Literal["regression", "classification"] | None = Field(
        None, description="What the target holds. Default: classes where it is text, true or false, or a category."
    )


class SeriesSettings(_Section):
    """Set where the rows form series in time."""

    time: str = Field(description="Column of time stamps, or of a number that grows with time.")
    entity: Names = Field((), description="Columns whose combination tells the series apart.")
    window: int = Field(24, ge=1, description="Steps that the model sees.")
    future: Horizons = Field(1, description="Steps ahead that it predicts: one number, or several.")
    stride: int = Field(1, ge=1, description="Steps between neighbouring windows.")
    max_gap: Pause | None = Field(None, description="Longest pause that does not break a series, such as 4D or 2h.")
    targets_as_inputs: bool = Field(True, description="Whether the model sees the past of the targets as well.")
    flatten: bool = Field(False, description="Whether the model reads a window as one row of numbers.")


class TrainingSettings(_Section):
    """How the backbone is fitted."""

    epochs: int = Field(100, ge=1, description="Passes over the data, at most.")
    patience: int = Field(10, ge=1, description="Epochs without improvement before training stops.")
    batch_size: int = Field(256, ge=1, description="Rows or windows in one step.")
    learning_rate: float = Field(2e-3, gt=0, description="Of AdamW.")
    weight_decay: float = Field(1e-2, ge=0, description="Of AdamW.")
    holdout: float = Field(0.2, gt=0, lt=0.9, description="Share held out for early stopping and skill.")
    folds: int | None = Field(
        None, ge=2, description="Networks, each fitted without its fold of the data, which it refines. Default: one."
    )
    criterion: CriterionName | None = Field(
        None, description="mse, l1, huber, cross_entropy, or losses.py:my_loss. Default: mse; classes: cross_entropy."
    )


class BackboneSettings(_Section):
    """The network that learns the data."""

    kind: Kind | None = Field(None, description="Default: mlp for tables, lstm for series.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Of the architecture, such as hidden: 128.")
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _is_trained_in_folds(self) -> BackboneSettings:
        if self.training.folds is not None and registered(self.kind):
            conflict = Conflict(
                "backbone.training.folds: a registered model is taken as it is, and it may have seen every row",
                "no folds, or a network that is trained here",
                f"backbone.kind: {self.kind}",
                "remove folds, or choose another backbone.kind",
            )
            raise PydanticCustomError("conflict", "{problem}", conflict.words())
        return self


class SmoothingSettings(_Section):
    """Averages gradients over perturbed copies of the inputs, the weights, or both."""

    kind: Literal["smoothgrad", "noisegrad", "fusiongrad"]
    samples: int = Field(8, ge=1, description="Perturbed copies; the time grows with them.")
    sigma_input: float = Field(0.1, gt=0, description="Noise on the inputs.")
    sigma_weights: StepLength = Field("auto", description="Noise on the weights, as a share of each.")


class RefineSettings(_Section):
    """How the data are refined; lengths in standardised units."""

    rule: RuleName = Field("auto", description="The refinement rule. auto: posterior where it has something to go on.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Of the rule, such as anchored: false.")
    tau: float = Field(0.1, gt=0, description="The gate: rows with a smaller residual stay as they are.")
    eta: StepLength = Field("auto", description="Step length.")
    max_epochs: int = Field(100, ge=1, description="Steps of a row, at most.")
    refine_targets: bool = Field(True, description="Whether targets move as well.")
    batch_size: int | None = Field(None, ge=1, description="Default: chosen by the width of the data.")
    deadline: float | None = Field(None, gt=0, description="Seconds after which refinement stops where it is.")
    smoothing: SmoothingSettings | None = Field(None, description="Default: gradients are taken where the data are.")
    strength: Strength = Field(
        1.0, description="Share of the way that cells go. auto: as far as the gates allow, judged on the other half."
    )
    uncertainty: bool = Field(False, description="Whether a column NAME__std is published for every refined column.")
    draw: bool = Field(False, description="Whether cells become draws from their posteriors instead of means.")
    faults: bool = Field(False, description="Whether some cells are wrong altogether: spikes, slips, stuck sensors.")


class InputSettings(_Section):
    """What the input must satisfy before anything is trained."""

    min_rows: int = Field(50, ge=1, description="Fewest rows.")
    max_missing: float = Field(0.5, ge=0, le=1, description="Largest missing share of a refined column.")


class Bound(_Section):
    """A gate's bounds and what its failure means."""

    min: float | None = None
    max: float | None = None
    severity: Literal["error", "warning"] = "error"

    @model_validator(mode="after")
    def _leaves_room(self) -> Bound:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise PydanticCustomError("no_room", "a min that is not above the max")
        return self


def _bound(**defaults: Any) -> Any:
    return Field(default_factory=lambda: Bound(**defaults))


class GateSettings(_Section):
    """Bounds of the quality gates. An `error` keeps the result from being published."""

    skill: Bound = _bound(min=0.10)
    swd: Bound = _bound(max=0.15)
    rho: Bound = _bound(min=0.90)
    mean_drift: Bound = _bound(max=0.10)
    std_ratio: Bound = _bound(min=0.70, max=1.10)
    correlation_change: Bound = _bound(max=0.10)
    column_rho: Bound = _bound(min=0.70, severity="warning")
    harm: Bound = _bound(max=1.02)
    largest_correction: Bound = _bound(max=6.0, severity="warning")
    correction: Bound = _bound(min=0.80, max=1.25, severity="warning")

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, given: Any) -> Any:
        """What is not given of a gate keeps its default."""
        if not isinstance(given, dict):
            return given
        merged = {}
        for name, bound in given.items():
            field = cls.model_fields.get(name)
            if field is not None and isinstance(bound, dict):
                default: Bound = field.get_default(call_default_factory=True)
                bound = {**default.model_dump(), **bound}  # noqa: PLW2901
            merged[name] = bound
        return merged


class PublishSettings(_Section):
    """Where versions go."""

    root: str = Field(
        default_factory=default_root,
        min_length=1,
        description="A folder, a URL such as s3://bucket/prefix, or block:NAME.",
    )
    retention: int | None = Field(
        None, ge=1, description="Versions that `denograd gc` leaves their data, besides tagged ones. Default: all."
    )
    sign_with: str | None = Field(
        None, min_length=1, description="Ed25519 key that signs manifests: PEM file, or block:NAME of a Prefect Secret."
    )


class TrackingSettings(_Section):
    """Where models are tracked."""

    uri: str = Field(
        default_factory=default_tracking_uri, min_length=1, description="MLflow's tracking URI, or block:NAME."
    )


class Settings(_Section):
    """Everything that determines a cleaning run."""

    dataset: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$", description="Name of the published data set: lower case, digits, _ . -"
    )
    source: str = Field(min_length=1, description="The data: a CSV, Parquet or Arrow file, or a folder of them.")
    columns: ColumnSettings
    series: SeriesSettings | None = None
    mode: Literal["full", "append"] = Field(
        "full", description="append: only what arrived since the last version is refined, by the same model."
    )
    model: str | None = Field(
        None,
        pattern=r"^(models:/[^/@]+(/[1-9]\d*|@[^/@]+)|[a-z0-9][a-z0-9_.-]*@[^/@]+)$",
        description="Refines in place of one trained here: NAME@champion, a published NAME@N, or models:/NAME/3.",
    )
    backbone: BackboneSettings = BackboneSettings()
    refine: RefineSettings = RefineSettings()
    input: InputSettings = InputSettings()
    gates: GateSettings = GateSettings()
    publish: PublishSettings = Field(default_factory=PublishSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    lineage: LineageSettings = LineageSettings()
    schedule: ScheduleSettings | None = Field(None, description="When deployed runs start. Default: when asked to.")
    watch: ScheduleSettings | None = Field(None, description="When deployed watches look. Default: when asked to.")
    work_pool: str = Field("denograd", min_length=1, description="Prefect's pool of workers for deployed runs.")
    notify: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+/[a-z0-9-]+$",
        description="Prefect block that tells people of failed runs: TYPE/NAME, such as slack-webhook/team.",
    )
    on_conflict: Literal["wait", "cancel"] = Field(
        "wait", description="What a run does while another one of the data set is at work."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of everything random.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")

    @model_validator(mode="after")
    def _goes_together(self) -> Settings:
        conflict = key_conflict(self) or conflict_in(self)
        if conflict is not None:
            raise PydanticCustomError("conflict", "{problem}", conflict.words())
        return self

    def with_paths_below(self, folder: Path) -> Settings:
        """The same with relative local paths taken from this folder."""

        def anchored(path: str) -> str:
            remote = "://" in path or path.startswith(REFERENCE)
            return path if remote else os.path.normpath((folder / Path(path).expanduser()).absolute())

        key = self.publish.sign_with
        publish = self.publish.model_copy(
            update={"root": anchored(self.publish.root), "sign_with": key and anchored(key)}
        )
        criterion = anchored_kind(self.backbone.training.criterion, folder)
        training = self.backbone.training.model_copy(update={"criterion": criterion})
        kind = anchored_kind(self.backbone.kind, folder)
        backbone = self.backbone.model_copy(update={"kind": kind, "training": training})
        return self.model_copy(update={"source": anchored(self.source), "backbone": backbone, "publish": publish})

    def of_result(self) -> dict[str, Any]:
        """Plain data without what only says when and where runs are started."""
        return self.model_dump(mode="json", exclude=set(OF_DEPLOYMENT))

    def public(self) -> dict[str, Any]:
        """Plain data that may be written down: credentials in addresses are left out."""
        plain = self.model_dump(mode="json", exclude_none=True)
        plain["source"] = without_credentials(self.source)
        plain["publish"]["root"] = without_credentials(self.publish.root)
        plain["tracking"]["uri"] = without_credentials(self.tracking.uri)
        return plain


def without_credentials(address: str) -> str:
    """An address without the user and password in it.

    >>> without_credentials("https://user:secret@mlflow.example:5000/x")
    'https://mlflow.example:5000/x'
    >>> without_credentials("postgresql://user:p@ss@host/x")
    'postgresql://host/x'
    """
    return re.sub(r"(?<=://)[^/\s]*@", "", address)


def load_settings(path: str | Path, **changes: Any) -> Settings:
    """Read a configuration file; relative paths in it are relative to its folder.

    Args:
        path: The file.
        changes: Top-level settings that are to be others than in it.

    Raises:
        ConfigError: If it cannot be read, or a key or value is wrong: names the key and the nearest valid one.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the configuration cannot be read",
            found=getattr(error, "strerror", None) or "no text in UTF-8",
            where=str(path),
            remedy="write one with: denograd init DATA",
        ) from None
    try:
        plain = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # a date such as 2024-02-31 is a ValueError
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "the configuration is not valid YAML",
            found=str(getattr(error, "problem", None) or error).partition("\n")[0][:200],
            where=f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path),
        ) from None
    if not isinstance(plain, dict):
        raise ConfigError(
            "the configuration is empty or not a mapping", expected="keys such as dataset", where=str(path)
        )
    return parse_settings(plain | changes, str(path)).with_paths_below(path.parent)


def parse_settings(plain: dict[str, Any], where: str = "settings") -> Settings:
    """Validate plain data.

    Raises:
        ConfigError: For the first wrong key or value, with its path, what was expected, and how many more there are.
    """
    try:
        return Settings.model_validate(plain)
    except ValidationError as error:
        raise config_error(error, Settings, where) from None
