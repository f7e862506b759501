"""A model out of MLflow's registry, or of a published version, in place of training one. Nothing in it is unpickled.

A version that an earlier run registered brings its scaling and its architecture along. Any other is taken to read
standardised inputs: features, then frozen columns, in the order of the data.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from denograd_engine.backbones import REGISTRY
from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.inert import load_program
from denograd_tasks.kinds import REGISTERED, registered
from denograd_tasks.models import ARCHITECTURE, PROGRAM, SCALING, WEIGHTS, load_module, tensors_digest, weights_in
from denograd_tasks.posteriors import DESCRIPTION, read_model
from denograd_tasks.records import Architecture
from denograd_tasks.settings import Settings, without_credentials
from denograd_tasks.store import open_store
from denograd_tasks.tags import tags_of
from denograd_tasks.tracking import client, fluent, tracking_errors
from denograd_tasks.versions import resolve

if TYPE_CHECKING:
    from torch import nn

    from denograd_engine.frames import Encoder
    from denograd_engine.posterior.model import Posterior
    from denograd_engine.schema import Schema

WHERE = "backbone.kind"
MODEL_TAG = "denograd.model"
"""Of the run that trained a model: its digest."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version, found by its number or an alias; or what a published version was made with.

    Attributes:
        uri: By its number.
        source: Where its files are; another model registered under a number that became free has another.
        model_id: Of the logged model, if it is one.
        run_id: The run that logged it, if it says so.
        digest: sha256 of what it holds, if that was written down.
        where: The setting that names it.
        root: The publishing root that its files are in; None if they are in the registry.
        files: Their paths in it.
    """

    uri: str
    source: str
    model_id: str | None
    run_id: str | None
    digest: str | None = None
    where: str = WHERE
    root: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adopted:
    """A model that came trained.

    Attributes:
        module: The network.
        weights: The local file that it was read from.
        encoder: Its scaling, None if it brought none.
        architecture: What it is, None if it did not say.
    """

    module: nn.Module
    weights: Path
    encoder: Encoder | None
    architecture: Architecture | None


def chosen_model(settings: Settings) -> ModelVersion | None:
    """The trained model that a run takes, which `model` names, or `backbone.kind`; None where it trains one.

    NAME@WORD is the published version with this tag, or else the registered one with this alias.

    Raises:
        ConfigError: If there is none of this name.
        ServiceError: If the tracking server or the publishing root does not answer.
        StoreError: If there is no such published version.
    """
    uri, name, kind = settings.tracking.uri, settings.model, settings.backbone.kind
    if name is None:
        return find_version(uri, kind) if kind is not None and registered(kind) else None
    store, (dataset, _, at) = open_store(settings.publish.root), name.partition("@")
    if registered(name) or not (at.isdigit() or at in {tag.name for tag in tags_of(store, dataset)}):
        return find_version(uri, name if registered(name) else f"{REGISTERED}{name}", "model")
    found = resolve(store, name)
    model = found.content["model"]
    return ModelVersion(
        uri=model["uri"],
        source=f"{name}, {found.digest}",
        model_id=None,
        run_id=None,
        digest=model["digest"],
        where="model",
        root=settings.publish.root,
        files=tuple(file["path"] for file in model["files"]),
    )


def find_version(uri: str, kind: str, where: str = WHERE) -> ModelVersion:
    """The version that a kind such as `models:/name@alias` means now.

    Raises:
        ConfigError: If there is none.
        ServiceError: If the tracking server does not answer.
    """
    from mlflow.exceptions import MlflowException

    named = registered(kind)
    assert named is not None
    server = client(uri)
    with tracking_errors(uri):
        try:
            if named.alias is not None:
                found = server.get_model_version_by_alias(named.name, named.alias)
            else:
                found = server.get_model_version(named.name, str(named.version))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise ConfigError(
                f"there is no model {kind!r} in the registry",
                found=without_credentials(str(error).splitlines()[0])[:200],
                where=f"{where}, {without_credentials(uri)}",
                remedy="check its name and version, and tracking.uri",
            ) from None
    source = str(found.source)
    model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else found.model_id
    run_id, digest = found.run_id or None, None
    if run_id is not None:
        with tracking_errors(uri), suppress(MlflowException):  # a run that is gone says nothing
            digest = server.get_run(run_id).data.tags.get(MODEL_TAG)
    return ModelVersion(f"{REGISTERED}{named.name}/{found.version}", source, model_id or None, run_id, digest, where)


def adopt(uri: str, version: ModelVersion, folder: Path, schema: Schema) -> Adopted:
    """Fetch a registered version that may refine any row: see `fetch_backbone`.

    Raises:
        ConfigError, StoreError: As there, and if it was trained in folds.
    """
    found = fetch_backbone(uri, version, folder, schema)
    if found.architecture is not None and found.architecture.folds is not None:
        raise ConfigError(
            f"the model {version.uri} is not one network",
            expected="a network that may refine any row",
            found=f"{found.architecture.folds} networks, each for the rows that it was trained without",
            where=version.where,
            remedy="train here with backbone.training.folds, or name a model that was trained without folds",
        )
    return found


def fetch_backbone(uri: str, version: ModelVersion, folder: Path, schema: Schema, own: str | None = None) -> Adopted:
    """Fetch a registered version, of one network or of several.

    Args:
        uri: The tracking server.
        version: Which one.
        folder: Where its files go.
        schema: The columns as they are now.
        own: The user's class that the configuration names: a network of that class is constructed by its code.

    Raises:
        ConfigError: If it is pickled, needs code that the configuration does not name, or was trained on other columns.
        StoreError: If loading it would run code that is hidden in it.
    """
    _fetch(uri, version, folder)
    if (folder / DESCRIPTION).is_file():
        raise ConfigError(
            f"the model {version.uri} is no backbone",
            found="the posterior model of a run with rule posterior",
            where=version.where,
            remedy="name it under model with refine.rule: posterior, or leave it out, and a model is trained here",
        )
    architecture = _architecture(folder, version, own)
    weights = _weights(folder, version, architecture)
    module = load_module(weights, architecture or _unknown(version), "cpu")
    scaling = _scaling(uri, version, folder)
    return Adopted(module, weights, None if scaling is None else _agreed(scaling, schema, version), architecture)


def adopt_posterior(uri: str, version: ModelVersion, folder: Path, schema: Schema) -> Posterior:
    """Fetch a posterior model; the bounds of its columns are those of now.

    Args:
        uri: The tracking server.
        version: Which one.
        folder: Where its files go.
        schema: The columns as they are now.

    Raises:
        ConfigError: If it is none, or was fitted to other columns or other noise.
        StoreError: If it is damaged.
    """
    _fetch(uri, version, folder)
    if not (folder / DESCRIPTION).is_file():
        raise ConfigError(
            f"the model {version.uri} is no posterior model",
            expected="the model of a run with rule posterior",
            found="a network",
            where=version.where,
            remedy="set refine.rule to one that goes step by step, such as denograd",
        )
    model = read_model(folder)
    before, now = (_declared(one) for one in (model.encoder.schema, schema))
    if before != now:
        raise ConfigError(
            f"the model {version.uri} takes out other noise",
            expected=_listed([_in_words(*one) for one in before]),
            found=_listed([_in_words(*one) for one in now]),
            where="columns.noise",
            remedy="declare the noise as it was, or train a model on these data",
        )
    return replace(model, encoder=_agreed(model.encoder, schema, version))


def _declared(schema: Schema) -> list[tuple[str, float, int]]:
    columns = [schema[name] for name in schema.refined]
    return [(one.name, one.noise, one.noise_correlation) for one in columns if one.noise is not None]


def _in_words(name: str, std: float, steps: int) -> str:
    return f"{name}: {std:g}" + (f" over {steps} steps" if steps else "")


def _fetch(uri: str, version: ModelVersion, folder: Path) -> None:
    """Bring the files, and see that they hold what was written down of them."""
    import mlflow

    if version.root is None:
        with fluent(uri), tracking_errors(uri):
            mlflow.artifacts.download_artifacts(version.uri, dst_path=str(folder))
    else:
        store = open_store(version.root)
        for path in version.files:
            (folder / path.rsplit("/", 1)[-1]).write_bytes(store.read(path))
    described = next((folder / name for name in (DESCRIPTION, ARCHITECTURE) if (folder / name).is_file()), None)
    weights = next((path for name in (WEIGHTS, PROGRAM) for path in folder.rglob(name)), None)
    ours = described is not None and (folder / SCALING).is_file()
    if version.digest is None or (version.root is None and not ours):
        return
    found = None
    if weights is not None and described is not None and ours:
        tensors = weights_in(weights) if weights.name == WEIGHTS else load_program(weights).state_dict
        found = tensors_digest(described.read_bytes() + (folder / SCALING).read_bytes(), tensors)
    if found != version.digest:
        raise StoreError(
            f"the model {version.uri} is not what it was when it was trained",
            expected=f"weights and scaling with the digest {version.digest}",
            found=found or "no weights",
            where=version.source,
            remedy="name another, or train one",
        )


def _architecture(folder: Path, version: ModelVersion, own: str | None) -> Architecture | None:
    """What the model says that it is; only networks of ours, and the user's own, are constructed on its word."""
    path = folder / ARCHITECTURE
    if not path.is_file():
        return None
    try:
        found = Architecture.model_validate_json(path.read_bytes())
    except ValidationError:
        raise StoreError(
            "the architecture of the model cannot be read", where=f"{version.uri}, {ARCHITECTURE}"
        ) from None
    return found if found.kind in REGISTRY or found.kind == own else found.model_copy(update={"rebuilt": False})


def _unknown(version: ModelVersion) -> Architecture:
    return Architecture(kind=version.uri, input_shape=(), outputs=0, rebuilt=False)


def _weights(folder: Path, version: ModelVersion, architecture: Architecture | None) -> Path:
    rebuilt = architecture is not None and architecture.rebuilt
    found = sorted(path for name in ((PROGRAM, WEIGHTS) if rebuilt else (PROGRAM,)) for path in folder.rglob(name))
    if found:
        return found[0]
    if architecture is not None:
        raise ConfigError(
            f"the model {version.uri} is no program, only weights",
            found=f"weights of {architecture.kind}, which torch.export could not follow",
            where=version.where,
            remedy="train it here, with its own class as backbone.kind",
        )
    pickled = [path.name for path in folder.rglob("*") if path.suffix in (".pth", ".pt", ".pkl", ".pickle")]
    raise ConfigError(
        f"the model {version.uri} is not in the pt2 format",
        expected="a model of torch.export, which runs no code when it is loaded",
        found=f"a pickled model ({pickled[0]}), which is never loaded" if pickled else "no model.pt2",
        where=version.where,
        remedy="log it anew: mlflow.pytorch.log_model(model, serialization_format='pt2', input_example=...)",
    )


def _scaling(uri: str, version: ModelVersion, folder: Path) -> Encoder | None:
    """From beside the weights, or from the run that registered it."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from denograd_engine.frames import Encoder

    path = folder / SCALING
    if not path.is_file() and version.run_id is not None:
        with fluent(uri):
            try:
                fetched = mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/{SCALING}", dst_path=str(folder))
            except (MlflowException, OSError):  # a run of somebody else's has no such artefact
                return None
        path = Path(fetched)
    if not path.is_file():
        return None
    try:
        return Encoder.from_dict(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            "the scaling of the model cannot be read", found=type(error).__name__, where=f"{version.uri}, {SCALING}"
        ) from None


def _agreed(encoder: Encoder, schema: Schema, version: ModelVersion) -> Encoder:
    """The model's scaling with the columns' roles of now; what it reads and predicts must be what it was trained on."""
    before, now = _read_by(encoder.schema), _read_by(schema)
    for what, one in before.items():
        if one != now[what]:
            raise ConfigError(
                f"the model {version.uri} was trained on other columns",
                expected=f"{what}: {_listed(one)}",
                found=_listed(now[what]),
                where="columns" if what != "time axis" else "series",
                remedy="declare the columns as they were, or train a model on these",
            )
    return replace(encoder, schema=schema)


def _read_by(schema: Schema) -> dict[str, list[str]]:
    from denograd_engine.columns import Role

    series = schema.series
    axis = [] if series is None else [f"{name} {value}" for name, value in vars(series).items() if name in _SHAPING]
    return {
        "features": schema.features,
        "targets": schema.targets,
        "columns of numbers": schema.cells,
        "frozen columns": schema.names(Role.FROZEN),
        "time axis": axis,
    }


_SHAPING = {"window", "future", "targets_as_inputs", "flatten"}
"""Settings of a series on which the shape or the meaning of inputs and predictions depends."""


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:12]) or "none"
    return text + (f" and {len(names) - 12} more" if len(names) > 12 else "")
