"""Which rule refines the data, and why: the one place where `auto` is resolved."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

if TYPE_CHECKING:
    from denograd_tasks.settings import RefineSettings, Settings

AUTO = "auto"
POSTERIOR = "posterior"
SUPERVISED = "denograd"
"""What `auto` comes to where `posterior` has nothing to go on."""
OF_STEPS = ("tau", "eta", "max_epochs", "refine_targets", "batch_size", "deadline", "smoothing")
"""Settings of rules that go step by step, and by a network's prediction of the target."""
OF_POSTERIORS = ("uncertainty", "draw", "faults")
AXIS = ("time", "entity", "max_gap")
"""Settings of a series that a posterior model knows: it has no windows."""
LIMITS: dict[str, dict[str, float]] = {
    "folds": {"ge": 2},
    "hidden": {"ge": 1},
    "depth": {"ge": 0},
    "dropout": {"ge": 0, "lt": 1},
    "components": {"ge": 1},
    "passes": {"ge": 1},
    "fewest_steps": {"ge": 1},
    "most_steps": {"ge": 1},
    "learning_rate": {"gt": 0},
    "weight_decay": {"ge": 0},
    "near": {"ge": 0},
}
"""What the arguments of `posterior` may be."""


@dataclass(frozen=True)
class Chosen:
    """The rule of a run.

    Attributes:
        rule: Its name, never `auto`.
        why: In a few words.
    """

    rule: str
    why: str

    @property
    def posterior(self) -> bool:
        """Whether there is no backbone and no step, but a posterior for every cell."""
        return self.rule == POSTERIOR

    def __str__(self) -> str:
        return f"{self.rule} ({self.why})"


@dataclass(frozen=True)
class Conflict:
    """Settings that do not go together; the words of a ConfigError."""

    problem: str
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None

    def words(self) -> dict[str, str]:
        """What there is of them."""
        return {name: text for name, text in vars(self).items() if text is not None}


def chosen_rule(settings: Settings) -> Chosen:
    """The rule that these settings mean.

    `auto` is `posterior` where it has something to go on: declared noise, faults to look for, or a series, whose noise
    can be estimated. It is `denograd` in other tables, and wherever the settings describe a backbone, which `posterior`
    does not have; in a series without declared noise, also where they describe windows or steps.
    """
    if settings.refine.rule != AUTO:
        return Chosen(settings.refine.rule, "set in refine.rule")
    network = _set(settings.backbone)
    if network:
        return Chosen(SUPERVISED, f"backbone.{network[0]} is set")
    count = len(settings.columns.noise)
    if count:
        return Chosen(POSTERIOR, f"columns.noise declares that of {count} column{'s' if count > 1 else ''}")
    if settings.refine.faults:
        return Chosen(POSTERIOR, "refine.faults looks for faulty cells")
    if settings.series is None:
        return Chosen(SUPERVISED, "columns.noise declares none, which posterior would need")
    windows = [f"series.{name}" for name in _set(settings.series) if name not in AXIS]
    steps = [f"refine.{name}" for name in _set(settings.refine) if name in OF_STEPS]
    if windows or steps:
        return Chosen(SUPERVISED, f"{(windows + steps)[0]} is set")
    return Chosen(POSTERIOR, "the noise of a series can be estimated")


def conflict_in(settings: Settings) -> Conflict | None:
    """The first setting that has no meaning for the rule."""
    chosen, refine = chosen_rule(settings), settings.refine
    if not chosen.posterior:
        return _needs_posterior(settings, chosen)
    network = _set(settings.backbone)
    if network:
        return Conflict(
            f"backbone.{network[0]}: rule {POSTERIOR} has no backbone",
            "no backbone section",
            f"rule {chosen}",
            f"remove it, or use refine.rule: {SUPERVISED}; refine.arguments says how {POSTERIOR} is fitted",
        )
    steps = [name for name in _set(refine) if name in OF_STEPS]
    if steps:
        targets = "leave the targets out of columns.noise, or " if steps[0] == "refine_targets" else ""
        return Conflict(
            f"refine.{steps[0]}: this setting has no meaning for rule {POSTERIOR}",
            f"its default: {POSTERIOR} moves each noisy cell once, as far as noise and context imply",
            f"rule {chosen}",
            f"{targets}remove it, or use refine.rule: {SUPERVISED}",
        )
    if not (settings.columns.noise or refine.faults) and settings.series is None:
        return Conflict(
            f"columns.noise: in a table, rule {POSTERIOR} takes out declared noise, and none is declared",
            "the standard deviation of the measurement noise of at least one refined column, in its own unit",
            None,
            "declare it, such as columns.noise: {temperature: 0.5}, set refine.faults to look for faulty cells alone, "
            f"or use refine.rule: {SUPERVISED}",
        )
    return _arguments(refine)


def key_conflict(settings: Settings) -> Conflict | None:
    """What keeps the rows of these settings from being told apart, where that is asked for."""
    if settings.series is not None and settings.columns.key:
        return Conflict(
            "columns.key: the steps of a series are told apart by time and entity",
            "no key, or no series section",
            remedy="remove it; series.entity names the columns that tell several series apart",
        )
    if settings.mode == "append" and settings.series is None and not settings.columns.key:
        return Conflict(
            "mode: append has nothing to tell the rows of a table apart by",
            "columns.key, the column or columns whose values no two rows share",
            remedy="name them, such as columns.key: id, or use mode: full",
        )
    return None


def _needs_posterior(settings: Settings, chosen: Chosen) -> Conflict | None:
    if settings.columns.noise_correlation:
        return Conflict(
            f"columns.noise_correlation: only rule {POSTERIOR} heeds how noise hangs together",
            f"rule {POSTERIOR}",
            f"rule {chosen}",
            f"use refine.rule: {POSTERIOR}, or remove it",
        )
    asked = [name for name in _set(settings.refine) if name in OF_POSTERIORS]
    if not asked:
        return None
    return Conflict(
        f"refine.{asked[0]}: only rule {POSTERIOR} knows how probable a cell is",
        f"rule {POSTERIOR}",
        f"rule {chosen}",
        f"declare columns.noise and use refine.rule: {POSTERIOR}, or remove it",
    )


def _arguments(refine: RefineSettings) -> Conflict | None:
    from denograd_tasks.settings_errors import config_error

    if not refine.arguments:
        return None
    model = _fit_model()
    try:
        model.model_validate(refine.arguments)
    except ValidationError as error:
        found = config_error(error, model, "")
        return Conflict(f"refine.arguments.{found.problem}", found.expected, found.found, found.remedy)
    return None


def fit_arguments(settings: Settings) -> dict[str, Any]:
    """The arguments of `posterior` that are set, each in its type."""
    return _fit_model().model_validate(settings.refine.arguments).model_dump(exclude_unset=True)


def _fit_model() -> type[BaseModel]:
    from denograd_engine.posterior.task import Fit  # brings torch

    hints = get_type_hints(Fit)
    taken: dict[str, Any] = {
        one.name: (hints[one.name], Field(one.default, **LIMITS.get(one.name, {})))  # type: ignore[call-overload]
        for one in fields(Fit)
        if one.name not in ("seed", "faults")
    }
    return create_model("Arguments", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **taken)


def _set(section: BaseModel) -> list[str]:
    """Settings that differ from their defaults; being written down as they are anyway changes nothing."""
    fields_of = type(section).model_fields.items()
    return [name for name, field in fields_of if getattr(section, name) != field.get_default(call_default_factory=True)]
