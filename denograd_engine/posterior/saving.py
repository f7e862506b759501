"""A fitted model as plain data and tensors, and back: nothing that is read executes anything."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from denograd_engine.errors import ConfigError
from denograd_engine.frames import Encoder
from denograd_engine.posterior.calibration import Trust
from denograd_engine.posterior.departures import Departure, Departures
from denograd_engine.posterior.faults import Faults
from denograd_engine.posterior.fitting import Member
from denograd_engine.posterior.gaussian import Gaussian
from denograd_engine.posterior.levels import Levels
from denograd_engine.posterior.model import ColumnFit, Posterior
from denograd_engine.posterior.network import BlindNet
from denograd_engine.posterior.task import Fit


def to_plain(model: Posterior) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain data for JSON, the scaling not included, and named tensors."""
    plain = {
        "fit": asdict(model.fit),
        "lags": list(model.lags),
        "columns": {name: asdict(column) for name, column in model.columns.items()},
        "refined": list(model.refined),
        "levels": {"widths": list(model.levels.widths), "pairs": list(model.levels.pairs)},
    }
    tensors: dict[str, Tensor] = {}
    if model.trust is not None:
        departed = vars(model.trust.departures)
        tensors |= {f"trust.{name}": values for name, values in vars(model.trust).items() if name != "departures"}
        tensors |= {f"departures.{name}": values for name, values in departed.items()}
    tensors |= {f"edges.{at}": edges for at, edges in enumerate(model.levels.edges)}
    if model.faults is not None:
        tensors |= {"faults.rate": model.faults.rate, "faults.size": model.faults.size}
    for number, member in enumerate(model.members):
        tensors |= {
            f"{number}.mean": member.linear.mean,
            f"{number}.effects": member.linear.effects,
            f"{number}.covariance": member.linear.covariance,
            f"{number}.open": member.open_,
        }
        tensors |= {f"{number}.network.{name}": values for name, values in member.network.state_dict().items()}
    return plain, {name: values.detach().cpu().contiguous() for name, values in tensors.items()}


def from_plain(
    plain: dict[str, Any], tensors: dict[str, Tensor], encoder: Encoder, device: torch.device | str = "cpu"
) -> Posterior:
    """The model that `to_plain` took apart.

    Raises:
        ConfigError: If the two do not fit together.
    """
    try:
        fit = Fit(**plain["fit"])
        columns = {name: _column(one) for name, one in plain["columns"].items()}
        there = {name: values.to(device) for name, values in tensors.items()}
        members = tuple(_member(there, number, fit) for number in range(fit.folds) if f"{number}.mean" in there)
        return Posterior(
            encoder=encoder,
            fit=fit,
            lags=tuple(plain["lags"]),
            columns=columns,
            refined=tuple(plain["refined"]),
            levels=_levels(plain["levels"], there),
            members=members,
            trust=_trust(there) if members else None,
            faults=Faults(there["faults.rate"], there["faults.size"]) if fit.faults else None,
        )
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(
            "the stored model is damaged, or of another version", found=type(error).__name__, where="model"
        ) from None


def _column(plain: dict[str, Any]) -> ColumnFit:
    departure = plain["departure"]
    return ColumnFit(**plain | {"departure": None if departure is None else Departure(departure)})


def _trust(tensors: dict[str, Tensor]) -> Trust:
    departed = Departures(*(tensors[f"departures.{one.name}"] for one in fields(Departures)))
    _, *others = fields(Trust)
    return Trust(departed, *(tensors[f"trust.{one.name}"] for one in others))


def _levels(plain: dict[str, Any], tensors: dict[str, Tensor]) -> Levels:
    widths = tuple(plain["widths"])
    edges = tuple(tensors[f"edges.{at}"] for at in range(len(widths)))
    return Levels(widths, edges, tuple((a, b) for a, b in plain["pairs"]))


def _member(tensors: dict[str, Tensor], number: int, fit: Fit) -> Member:
    inside = f"{number}.network."
    state = {name.removeprefix(inside): values for name, values in tensors.items() if name.startswith(inside)}
    cells, views = state["said"].shape[:2]
    with torch.random.fork_rng(devices=[]):
        network = BlindNet(cells, state["first.weight"].shape[1], views, fit.hidden, fit.depth, 0.0, fit.components)
    network.load_state_dict(state)
    linear = Gaussian(*(tensors[f"{number}.{name}"] for name in ("mean", "effects", "covariance")))
    return Member(linear, network.to(state["said"].device), tensors[f"{number}.open"])
