"""What passes between stages: URIs, digests and small facts. Never a table or a model.

Every record can say whether what it points to is still there, unchanged.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from denograd_engine.user_code import is_custom
from denograd_tasks.champion import Contest, Start
from denograd_tasks.growth import Appended, Parent, Unsettled
from denograd_tasks.noisy import NoisyColumn, furthest_from_one, noise_left_in_words, step_in_words
from denograd_tasks.rule import POSTERIOR
from denograd_tasks.store import open_store
from denograd_tasks.strength import strength_in_words


class File(BaseModel):
    """A file in the publishing root.

    Attributes:
        path: Relative to the root.
        sha256: Of its bytes.
        bytes: Its size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    bytes: int


class Record(BaseModel, ABC):
    """The result of a stage.

    Attributes:
        root: The publishing root, which its files are relative to.
        files: The artefacts that make this record worth anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    files: tuple[File, ...] = ()

    def intact(self) -> bool:
        """Whether every file is there with its digest."""
        store = open_store(self.root)
        return all(store.holds(file.path, file.sha256) for file in self.files)

    def file(self, name: str) -> File:
        """The file whose path ends in `name`."""
        return next(file for file in self.files if file.path.endswith(name))

    @abstractmethod
    def describe(self) -> str:
        """The result in a few words, for the live view."""


class Snapshot(Record):
    """The input, copied once; of an appended version, with what its parent was made from.

    Attributes:
        parent: The version that the next one is appended to; None where all rows are refined.
        digest: sha256 over the content (see `content.py`).
        source: Where it came from, without credentials.
        rows: Number of rows.
        columns: Name and type of each column.
    """

    digest: str
    source: str
    rows: int
    columns: tuple[tuple[str, str], ...]
    parent: Parent | None = None

    def run_name(self, dataset: str) -> str:
        """What runs over this snapshot are called, in Prefect and in MLflow."""
        return f"{dataset}-{self.digest[:8]}"

    def describe(self) -> str:
        with_parent = "" if self.parent is None else f", with those of version {self.parent.number}"
        return f"{self.rows:,} rows x {len(self.columns)} columns{with_parent}, digest {self.digest[:12]}"


class Gate(BaseModel):
    """One checked bound.

    Attributes:
        name: As in the configuration.
        value: Measured; None if it could not be.
        minimum: Lower bound, None if there is none.
        maximum: Upper bound, likewise.
        severity: An `error` refuses the result, a `warning` does not.
        passed: Whether the value is within the bounds.
        meaning: What it measures, for people.
        remedy: What to try when it fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None
    severity: Literal["error", "warning"] = "error"
    passed: bool
    meaning: str = ""
    remedy: str = ""

    @property
    def bound(self) -> str:
        """The bounds in words."""
        if self.minimum is None:
            return "none" if self.maximum is None else f"at most {self.maximum:g}"
        if self.maximum is None:
            return f"at least {self.minimum:g}"
        return f"{self.minimum:g} to {self.maximum:g}"


class InputCheck(Record):
    """The input is fit to be cleaned.

    Attributes:
        gates: Every check with its value and bound.
    """

    gates: tuple[Gate, ...]

    def describe(self) -> str:
        warned = sum(not gate.passed for gate in self.gates)
        return f"{len(self.gates)} checks passed" if not warned else f"{len(self.gates)} checks, {warned} warnings"


class Architecture(BaseModel):
    """What it takes to run a network besides its weights.

    Attributes:
        kind: As in the configuration.
        arguments: Of its construction.
        input_shape: Of one input.
        outputs: Width of its prediction.
        source: sha256 of the source of a network of the user's own.
        rebuilt: Whether it is constructed again to take the weights; else its exported program is run.
        criterion: What it was fitted with, by name; None is the usual one.
        folds: Networks, each fitted without one fold of the data; None is one network that saw all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    input_shape: tuple[int, ...]
    outputs: int
    source: str | None = None
    rebuilt: bool = True
    criterion: str | None = None
    folds: int | None = None

    def to_json(self) -> bytes:
        """Canonical JSON. Without folds it is as it was before there were any, and so are digests."""
        plain = self.model_dump(mode="json", exclude=None if self.folds else {"folds"})
        return json.dumps(plain, sort_keys=True, indent=1).encode()


class TrainedBackbone(Record):
    """The frozen model: a network, or the posterior model of all columns.

    Attributes:
        architecture: What it is.
        model_uri: In MLflow's registry.
        run_id: The MLflow run of its training, or of its assessment if it came trained.
        tracking_uri: The MLflow server or store.
        digest: sha256 of architecture, weights and scaling.
        skill: Held-out R2 of each target; of a posterior model, of each column with noise. With folds, the mean over
            them, each predicted by the network that did not see it.
        residual_scale: Held-out root mean squared residual, standardised.
        history: Epoch, training loss and held-out loss, each epoch; empty if it came trained. With folds, the mean over
            those still learning. Of a posterior model, the percentage of the work, and the loss.
        adopted: Whether it was taken from the registry as it is.
        columns: Of a posterior model, the columns with noise.
        bounds: Of a posterior model, the most that the noise of the other refined columns can be, in their own units.
        start: The champion that training was to go on from; None where nothing was.
        contest: How it compared with the champion of before; None if it came trained, or was the first.
    """

    architecture: Architecture
    model_uri: str
    run_id: str
    tracking_uri: str
    digest: str
    skill: dict[str, float]
    residual_scale: float
    history: tuple[tuple[int, float, float | None], ...]
    adopted: bool = False
    columns: dict[str, NoisyColumn] = Field(default_factory=dict)
    bounds: dict[str, float] = Field(default_factory=dict)
    start: Start | None = None
    contest: Contest | None = None

    def intact(self) -> bool:
        from denograd_tasks.tracking import run_exists

        return super().intact() and run_exists(self.tracking_uri, self.run_id)

    @property
    def kind(self) -> str:
        """Its architecture in short: of a path, the last part."""
        kind = self.architecture.kind
        return kind.rsplit("/", 1)[-1] if is_custom(kind) else kind

    @property
    def posterior(self) -> bool:
        """Whether it is a posterior model."""
        return self.architecture.kind == POSTERIOR

    @property
    def noise_left(self) -> dict[str, float]:
        """Share of each column's noise that is left, estimated without clean data."""
        return {name: column.gain for name, column in self.columns.items()}

    @property
    def weights(self) -> File:
        """The file of its weights."""
        return self.files[0]

    @property
    def mean_skill(self) -> float:
        return sum(self.skill.values()) / len(self.skill)

    def describe(self) -> str:
        if self.posterior:
            name = f"{self.model_uri} as it is" if self.adopted else POSTERIOR
            return f"{name}, noise left, estimated: {noise_left_in_words(self.noise_left)}"
        name = f"{self.model_uri} as it is" if self.adopted else self.kind
        if self.architecture.folds:
            name += f", {self.architecture.folds} folds"
        skill = f"{name}, held-out R2 {self.mean_skill:.3f}"
        skill += f" after {len(self.history)} epochs" if self.history else ""
        return skill + (f" {self.start.words()}" if self.start is not None else "")


class Refined(Record):
    """The refined data: staged, or published, or in quarantine.

    Attributes:
        attempt: Names its folder; the same content always has the same name.
        digest: sha256 over the refined content.
        totals: `denograd_engine.Refinement.totals` as plain data.
        columns: Of a posterior model, for each refined column the std of its errors, `noise`, the root mean square of
            the posterior `std` and of the `correction`, the correction `expected` from the first two, all in the
            column's unit, and the number of `faults` found in it.
        strength: Share of the way that the cells went.
        strength_chosen: Whether it was chosen on one half of the rows, so that the gates judge the other.
        appended: Which rows were refined, where not all were.
        unsettled: Of a series, the steps at its ends.
    """

    attempt: str
    digest: str
    totals: dict[str, Any]
    columns: dict[str, dict[str, float]] = Field(default_factory=dict)
    strength: float = 1.0
    strength_chosen: bool = False
    appended: Appended | None = None
    unsettled: Unsettled | None = None

    @property
    def data(self) -> File:
        """The refined table where it is staged and published."""
        return self.files[0]

    @property
    def rows(self) -> File:
        """The summary of each row."""
        return self.files[1]

    @property
    def evidence(self) -> Sequence[File]:
        """What is kept beside the table: the summary of each row, and posterior stds and faults that the
        table does not hold.
        """
        return self.files[1:]

    @property
    def quarantined(self) -> File:
        """The refined table where it is kept after a gate refused it."""
        return self.data.model_copy(update={"path": self.data.path.replace("/data/", "/quarantine/", 1)})

    def furthest_from_expected(self) -> tuple[str | None, float]:
        """The column whose correction is furthest from the expected one, and the ratio of the two; 1 without any."""
        return furthest_from_one({name: (one["correction"], one["expected"]) for name, one in self.columns.items()})

    def located(self) -> File | None:
        """The refined table where it is now, unchanged; None if it is gone."""
        store = open_store(self.root)
        return next((file for file in (self.data, self.quarantined) if store.holds(file.path, file.sha256)), None)

    def intact(self) -> bool:
        store = open_store(self.root)
        return self.located() is not None and all(store.holds(file.path, file.sha256) for file in self.evidence)

    def describe(self) -> str:
        if self.appended is not None:
            return self.appended.words()
        moved = self.totals["moved"] / max(1, self.totals["rows"])
        text = f"{moved:.0%} of the rows moved"
        text += f", {step_in_words(self.totals['eta'])}" if self.columns else f" in {self.totals['epochs']} epochs"
        strength = strength_in_words(self.strength, self.strength_chosen)
        return text + (f", strength {strength}" if strength else "")


class Verdict(Record):
    """The judgement on a refinement.

    Attributes:
        passed: Whether no gate of severity `error` failed.
        gates: Every gate.
        docs: Path of the Data Docs' first page, relative to the root.
        fidelity: Every measured statistic as plain data.
        half: Whether it is of the half of the rows that the strength was not chosen on.
    """

    passed: bool
    gates: tuple[Gate, ...]
    docs: str
    fidelity: dict[str, Any]
    half: bool = False

    @property
    def record(self) -> File:
        """The verdict as JSON."""
        return self.files[0]

    def failed(self, severity: str) -> Sequence[Gate]:
        """The gates of this severity that failed."""
        return [gate for gate in self.gates if gate.severity == severity and not gate.passed]

    def describe(self) -> str:
        failed, warned = len(self.failed("error")), len(self.failed("warning"))
        text = f"{sum(gate.passed for gate in self.gates)} of {len(self.gates)} gates passed"
        text += " on the other half of the rows" if self.half else ""
        if failed:
            text += f", refused by {', '.join(gate.name for gate in self.failed('error'))}"
        return text + (f", {warned} warnings" if warned else "")


class Report(Record):
    """The report page."""

    @property
    def page(self) -> File:
        """The HTML file."""
        return self.files[0]

    def describe(self) -> str:
        return f"{self.files[0].bytes / 1e3:,.0f} kB of HTML"


class Quarantined(Record):
    """Refused data, kept apart with the verdict and the report."""

    def describe(self) -> str:
        return "refused data kept apart, nothing published"


class Version(Record):
    """A published version.

    Attributes:
        dataset: Its name.
        number: From 1 on, without gaps.
        digest: sha256 of the manifest.
        parent: The same of the version before, None for the first.
        already: Whether it had been published by an earlier run.
    """

    dataset: str
    number: int
    digest: str
    parent: str | None
    already: bool = False

    def describe(self) -> str:
        return f"{'already published as' if self.already else 'published as'} {self.dataset}@{self.number}"
