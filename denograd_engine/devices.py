"""Choosing a device, and lending a model for inference: its state is handed back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from denograd_engine.errors import ConfigError


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the GPU where there is one.

    Raises:
        ConfigError: If the name is unknown, or the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}", expected="auto, cpu, cuda or cuda:N", where="device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} cannot be used",
            expected="a CUDA device that torch can see",
            found=f"{torch.cuda.device_count()} of them",
            where="device",
            remedy="set device: auto or cpu, or install a torch build for the GPU's driver",
        )
    return device


@contextmanager
def frozen(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Lend a model for gradients to its input: evaluation mode, weights without gradients, on this device.

    Dropout is off and batch statistics stand still. On a GPU, cuDNN's recurrent layers refuse to run backward in
    evaluation mode, so models that have them run without cuDNN rather than with dropout on. Modes, gradient flags and
    device are restored on the way out, also after an error. A model spread over several devices stays where it is.
    """
    modes = [(part, part.training) for part in module.modules()]
    flags = [(weight, weight.requires_grad) for weight in module.parameters()]
    homes = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    home = homes.pop() if len(homes) == 1 else device
    recurrent = any(isinstance(part, nn.RNNBase) for part, _ in modes)
    on_cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent and device.type == "cuda" else nullcontext()
    try:
        for part, _ in modes:
            part.training = False
        for weight, _ in flags:
            weight.requires_grad_(False)
        if home != device:
            module.to(device)
        with on_cudnn:
            yield module
    finally:
        if home != device:
            module.to(home)
        for weight, flag in flags:
            weight.requires_grad_(flag)
        for part, mode in modes:
            part.training = mode


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating-point type of the model's weights; float32 for a model without any."""
    floating = (weight.dtype for weight in module.parameters() if weight.is_floating_point())
    return next(floating, torch.float32)
