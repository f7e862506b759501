"""Choosing a device, and lending a model for inference: its state is handed back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from denograd_engine.errors import ConfigError

PROBED_ITEMS = 64
"""Items of the batch whose memory is measured."""
RECURRENT = ("aten.lstm", "aten.gru", "aten.rnn")
"""Operators of exported recurrent layers."""
CACHE = 2**24
"""Bytes that a pass on a CPU may remember: about what a core's caches hold."""


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
    recurrent = device.type == "cuda" and any(_is_recurrent(part) for part, _ in modes)
    on_cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
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


def _is_recurrent(part: nn.Module) -> bool:
    """Whether it is a recurrent layer, or an exported program that holds one."""
    nodes = part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ()
    return isinstance(part, nn.RNNBase) or any(str(node.target).startswith(RECURRENT) for node in nodes)


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating-point type of the model's weights; float32 for a model without any."""
    floating = (weight.dtype for weight in module.parameters() if weight.is_floating_point())
    return next(floating, torch.float32)


def in_parts(work: Callable[[slice], None], count: int, size: int) -> None:
    """Do work on `count` items in parts of at most `size`; a part that does not fit into memory is halved.

    Args:
        work: Called with the slice of each part, in order. A call that runs out of memory must have changed nothing.
        count: How many items there are.
        size: Items in one part, at most.
    """
    at = 0
    while at < count:
        try:
            work(slice(at, min(at + size, count)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            size = max(1, min(size, count - at) // 2)
        else:
            at += size


def batch_size_for(module: nn.Module, input_shape: tuple[int, ...], like: Tensor) -> int:
    """Items in one pass, forward and back to the input: a power of two.

    Chosen by what the backward pass needs to remember of an item: on a CPU so that a batch stays within the caches, on
    a GPU so that it fills half of the free memory.

    Args:
        module: Frozen, on the device.
        input_shape: Of one item.
        like: A tensor of the type and on the device of the inputs.
    """
    own = {weight.data_ptr() for weight in module.parameters()}
    remembered: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            remembered[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def ask(part: slice) -> None:
        remembered.clear()
        x = like.new_zeros(part.stop - part.start, *input_shape).requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            module(x)
        asked[:] = [len(x), sum(remembered.values()) or x.numel() * x.element_size()]

    asked = [1, 1]
    in_parts(ask, PROBED_ITEMS, PROBED_ITEMS)
    of_each = max(1, asked[1] // asked[0])
    if like.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(like.device)
        fewest, room, most = 1, free // 4, 2**20
    else:
        fewest, room, most = 128, CACHE, 4096
    return 1 << (max(fewest, min(most, room // of_each)).bit_length() - 1)
