"""The whole way of a version, from its source to its place in the history, by what was written down at publication."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from denograd_tasks.champion import Contest, Start
from denograd_tasks.noisy import NoisyColumn
from denograd_tasks.records import Gate
from denograd_tasks.store import Store
from denograd_tasks.versions import Manifest, history, numbers, read_manifest


@dataclass(frozen=True)
class Origin:
    """Where the data came from.

    Attributes:
        uri: Of the source, without credentials.
        snapshot: Digest of the copy that was refined.
        rows: Of it.
        columns: Likewise.
        checks: What it had to satisfy before anything was trained.
    """

    uri: str
    snapshot: str
    rows: int
    columns: int
    checks: tuple[Gate, ...]


@dataclass(frozen=True)
class Model:
    """What drove the correction.

    Attributes:
        kind: Its architecture in short.
        uri: In MLflow's registry.
        digest: sha256 of architecture, weights and scaling.
        run: The MLflow run of its training, or of its assessment if it came trained.
        tracking_uri: The MLflow server or store, without credentials.
        adopted: Whether it was taken from the registry as it is.
        trained_on: Digest of the snapshot that it learnt; None for an adopted model that no version here tells of.
        skill: Held-out R2 of each target; of a posterior model, of each column with noise.
        noise: Of a posterior model, what it knows of each column.
        start: The champion that its training was to go on from, after a drift; None where nothing was.
        contest: How it compared with the champion of before; None if it came trained, or was the first.
    """

    kind: str
    uri: str
    digest: str
    run: str
    tracking_uri: str
    adopted: bool
    trained_on: str | None
    skill: Mapping[str, float]
    noise: Mapping[str, NoisyColumn]
    start: Start | None
    contest: Contest | None


@dataclass(frozen=True)
class Refinement:
    """What was done with it.

    Attributes:
        rule: The refinement rule; None in versions of releases that did not write it down, like the reason.
        why: Why that one.
        settings: The configuration of it, as it was.
        rows: Rows of the data.
        moved: Those of which any cell changed.
        residual_before: Root mean squared residual, standardised; None without any.
        residual_after: After refinement.
    """

    rule: str | None
    why: str | None
    settings: Mapping[str, Any]
    rows: int
    moved: int
    residual_before: float | None
    residual_after: float | None


@dataclass(frozen=True)
class Run:
    """What published it.

    Attributes:
        flow_run: Id of the Prefect flow run.
        name: Its name.
        trigger: What started it.
        event: Id of the Prefect event of drift that it answers; None if something else started it.
        user: Who did, on the machine that it ran on; None if that is not known.
        python: Version of Python there.
        platform: The operating system.
        packages: Versions of the packages that matter; None where one was not installed.
        revision: Of this code, where it ran from a checkout.
    """

    flow_run: str | None
    name: str
    trigger: str
    event: str | None
    user: str | None
    python: str
    platform: str
    packages: Mapping[str, str | None]
    revision: str | None


@dataclass(frozen=True)
class Released:
    """Why a version exists although a gate refused it.

    Attributes:
        by: Who released it, on the machine where that was done; None if that is not known.
        reason: Why.
        at: When.
    """

    by: str | None
    reason: str
    at: str


@dataclass(frozen=True)
class RolledBack:
    """Why a version has the content of an earlier one.

    Attributes:
        to: The number of that one.
        manifest: Digest of its manifest.
        by: Who rolled back, on the machine where that was done; None if that is not known.
        reason: Why.
        at: When.
    """

    to: int
    manifest: str
    by: str | None
    reason: str
    at: str


@dataclass(frozen=True)
class Parent:
    """The version before.

    Attributes:
        number: Of it.
        digest: Of its manifest, as it was when this version was published.
        created: When it was published; None if its manifest is gone.
    """

    number: int
    digest: str
    created: str | None


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from.

    Attributes:
        dataset: The data set.
        number: Of the version.
        created: When it was published.
        digest: Of its manifest.
        content: Digest of the refined data.
        origin: Where the data came from.
        model: What drove the correction.
        refinement: What was done with it.
        gates: What the result had to satisfy.
        run: What published it, or was refused.
        released: Who published it against a gate, and why; None if every gate passed.
        rolled_back: Who published an earlier version's content again, and why; None if it is a run's.
        parent: The version before; None for the first.
    """

    dataset: str
    number: int
    created: str
    digest: str
    content: str
    origin: Origin
    model: Model
    refinement: Refinement
    gates: tuple[Gate, ...]
    run: Run
    released: Released | None
    rolled_back: RolledBack | None
    parent: Parent | None


def lineage_of(store: Store, manifest: Manifest) -> Lineage:
    """The way of a published version, from its manifest and those of the versions that it builds on."""
    model = manifest.content["model"]
    learnt = learnt_snapshot(store, model["uri"]) if model.get("adopted") else None
    return lineage_in(manifest, _parent_created(store, manifest), learnt)


def lineage_in(manifest: Manifest, parent_created: str | None, learnt: str | None) -> Lineage:
    """The way of a published version, from its manifest alone but for two things.

    Args:
        manifest: Of the version.
        parent_created: When the version before was published; None if that is not known.
        learnt: Digest of the snapshot that an adopted model was trained on; None if that is not known.
    """
    content = manifest.content
    refinement, run, environment = content["refinement"], content["run"], content["environment"]
    return Lineage(
        dataset=manifest.dataset,
        number=manifest.number,
        created=content["created"],
        digest=manifest.digest,
        content=content["content_digest"],
        origin=Origin(
            uri=content["source"]["uri"],
            snapshot=content["source"]["snapshot"],
            rows=refinement["rows"],
            columns=sum(column["role"] != "uncertainty" for column in content["schema"]),
            checks=_gates(content["input_checks"]),
        ),
        model=_model(manifest, learnt),
        refinement=Refinement(
            rule=refinement.get("rule"),
            why=refinement.get("why"),
            settings=content["settings"]["refine"],
            rows=refinement["rows"],
            moved=refinement["moved"],
            residual_before=refinement["residual_before"],
            residual_after=refinement["residual_after"],
        ),
        gates=_gates(content["gates"]),
        run=Run(
            flow_run=run["flow_run_id"],
            name=run["flow_run_name"],
            trigger=run["trigger"],
            event=run.get("event"),
            user=run["user"],
            python=environment["python"],
            platform=environment["platform"],
            packages=environment["packages"],
            revision=environment["git_revision"],
        ),
        released=Released(**content["released"]) if content.get("released") else None,
        rolled_back=RolledBack(**content["rolled_back"]) if content.get("rolled_back") else None,
        parent=Parent(manifest.number - 1, content["parent"], parent_created) if content["parent"] else None,
    )


def _gates(plain: list[dict[str, Any]]) -> tuple[Gate, ...]:
    return tuple(Gate(**one) for one in plain)


def _model(manifest: Manifest, learnt: str | None) -> Model:
    model = manifest.content["model"]
    adopted = bool(model.get("adopted"))
    return Model(
        kind=model["kind"],
        uri=model["uri"],
        digest=model["digest"],
        run=model["mlflow_run_id"],
        tracking_uri=model["tracking_uri"],
        adopted=adopted,
        trained_on=learnt if adopted else manifest.content["source"]["snapshot"],
        skill=model["skill"],
        noise={name: NoisyColumn(**one) for name, one in (model.get("columns") or {}).items()},
        start=Start(**model["start"]) if model.get("start") else None,
        contest=Contest(**model["contest"]) if model.get("contest") else None,
    )


def learnt_snapshot(store: Store, uri: str) -> str | None:
    """The snapshot that a registered model was trained on, if a version here was published with its training."""
    match = re.fullmatch(r"models:/([^/]+)/\d+", uri)
    if match is None:
        return None
    models = ((one.content["model"], one.content["source"]["snapshot"]) for one in history(store, match.group(1)))
    return next((snapshot for model, snapshot in models if model["uri"] == uri and not model.get("adopted")), None)


def _parent_created(store: Store, manifest: Manifest) -> str | None:
    if manifest.content["parent"] is None or manifest.number - 1 not in numbers(store, manifest.dataset):
        return None
    return str(read_manifest(store, manifest.dataset, manifest.number - 1).content["created"])
