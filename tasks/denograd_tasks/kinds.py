"""Names in the configuration: of ours, of the user's own classes and functions, and of models in MLflow's registry."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from denograd_engine.backbones import REGISTRY
from denograd_engine.user_code import is_custom
from denograd_tasks.rule import AUTO, POSTERIOR

REGISTERED = "models:/"
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[1-9]\d*)|@(?P<alias>[^/@]+))")


class Registered(NamedTuple):
    """A version of a registered model, by its number or an alias; the other is None."""

    name: str
    version: str | None
    alias: str | None


def registered(kind: str | None) -> Registered | None:
    """The registered model that a kind names, if it does.

    >>> registered("models:/rooms/3")
    Registered(name='rooms', version='3', alias=None)
    >>> registered("models:/rooms@champion").alias
    'champion'
    >>> registered("mlp")
    """
    found = _URI.fullmatch(kind or "")
    return Registered(**found.groupdict()) if found else None


def anchored(kind: str | None, folder: Path) -> str | None:
    """The same kind with the path of a file taken from this folder, where `nets:Net` finds a `nets.py` as well."""
    if kind is None or not is_custom(kind):
        return kind
    place, _, name = kind.rpartition(":")
    if not place.endswith(".py"):
        if "." in place or not (folder / f"{place}.py").is_file():
            return kind
        place = f"{place}.py"
    return f"{os.path.normpath((folder / Path(place).expanduser()).absolute())}:{name}"


def _known(kind: str) -> str:
    if kind in REGISTRY or is_custom(kind) or registered(kind):
        return kind
    if kind.startswith(REGISTERED):
        raise PydanticCustomError("backbone_kind", "models:/name/3, or models:/name@alias")
    if kind.endswith(".py"):
        raise PydanticCustomError("backbone_kind", "the class in the file as well, such as nets.py:MyNet")
    raise _unknown(kind, REGISTRY, "; a class of your own such as nets.py:MyNet or mypkg.nets:MyNet; or models:/name/3")


def _criterion(name: str) -> str:
    from denograd_engine.criteria import REGISTRY as CRITERIA  # brings torch

    if name in CRITERIA or is_custom(name):
        return name
    raise _unknown(name, CRITERIA, "; or a function of your own such as losses.py:my_loss")


def _rule(name: str) -> str:
    if name in (AUTO, POSTERIOR):
        return name
    from denograd_engine.rules import REGISTRY as RULES  # brings torch

    if name in RULES:
        return name
    raise _unknown(name, [AUTO, POSTERIOR, *RULES], "")


def _unknown(name: str, registry: Iterable[str], others: str) -> PydanticCustomError:
    near = get_close_matches(name, registry, n=1, cutoff=0.5)
    context = {"names": ", ".join(registry), "others": others, **({"near": near[0]} if near else {})}
    return PydanticCustomError("backbone_kind", "{names}{others}", context)


Kind = Annotated[str, AfterValidator(_known), Field(min_length=1)]
CriterionName = Annotated[str, AfterValidator(_criterion), Field(min_length=1)]
RuleName = Annotated[str, AfterValidator(_rule), Field(min_length=1)]
