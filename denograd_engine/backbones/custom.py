"""A backbone of the user's own, by the name of its class or factory: `mypkg.nets:MyNet` or `path/to/nets.py:MyNet`.

Importing it runs the code that the user named, and nothing else. It is constructed like ours, as
`factory(input_shape, outputs, **arguments)`.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import ConfigError, DenogradError

if TYPE_CHECKING:
    from torch import nn

WHERE = "backbone.kind"
LONGEST_REASON = 200


def is_custom(kind: str) -> bool:
    """Whether a kind names a class or factory rather than one of our backbones.

    >>> is_custom("mypkg.nets:MyNet"), is_custom("nets.py:MyNet"), is_custom("mlp"), is_custom("models:/name/3")
    (True, True, False, False)
    """
    module, _, name = kind.rpartition(":")
    return bool(module) and name.isidentifier() and (_is_file(module) or _is_dotted(module))


def load(kind: str) -> Callable[..., nn.Module]:
    """The class or factory of this name.

    Args:
        kind: `package.module:Name`, or `path/to/file.py:Name`, relative to the working folder.

    Raises:
        ConfigError: If the module cannot be found or imported, or has nothing callable of that name.
    """
    place, _, name = kind.rpartition(":")
    module = _from_file(Path(place).expanduser()) if _is_file(place) else _by_name(place)
    found = getattr(module, name, None)
    if not callable(found):
        own = [
            one
            for one, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__ and not one.startswith("_")
        ]
        raise ConfigError(
            f"there is no backbone {name!r} in {place}",
            expected="a class, or a function that returns a torch.nn.Module",
            found=("nothing of that name" if found is None else f"a {type(found).__name__}")
            + (f"; its own classes are {', '.join(own[:8])}" if own else ""),
            where=WHERE,
        )
    factory: Callable[..., nn.Module] = found
    return factory


def construct(
    kind: str, input_shape: tuple[int, ...], outputs: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialised backbone of the user's own.

    Raises:
        ConfigError: If it cannot be found, does not take these arguments, fails, or is no `torch.nn.Module`.
    """
    from torch import nn

    factory = load(kind)
    try:
        inspect.signature(factory).bind(input_shape, outputs, **(arguments or {}))
    except TypeError as error:
        raise ConfigError(
            f"backbone {kind!r} does not take these arguments",
            expected="a call such as Name(input_shape, outputs, **backbone.arguments)",
            found=_reason(error),
            where="backbone.arguments",
        ) from None
    except ValueError:  # some callables do not tell their signature
        pass
    try:
        backbone = factory(input_shape, outputs, **(arguments or {}))
    except DenogradError:
        raise
    except Exception as error:
        raise ConfigError(
            f"backbone {kind!r} cannot be constructed",
            found=_named(error),
            where=f"{WHERE}, for inputs of shape {input_shape} and {outputs} outputs",
            remedy="correct the class or function, or backbone.arguments",
        ) from error
    if not isinstance(backbone, nn.Module):
        raise ConfigError(
            f"backbone {kind!r} is not a network",
            expected="a torch.nn.Module",
            found=f"a {type(backbone).__name__}",
            where=WHERE,
        )
    return backbone


def source_digest(kind: str) -> str:
    """sha256 of the files that hold the named module and, if it comes from elsewhere, the class or function.

    What these import is not looked at.

    Raises:
        ConfigError: If the module or the name in it cannot be found.
    """
    factory = load(kind)
    place = kind.rpartition(":")[0]
    named = Path(place).expanduser() if _is_file(place) else _file_of(place)
    digest = hashlib.sha256()
    for path in dict.fromkeys((named, _file_of(getattr(factory, "__module__", None)) or named)):
        digest.update(hashlib.sha256(path.read_bytes() if path else b"").digest())
    return digest.hexdigest()


def _from_file(path: Path) -> ModuleType:
    """Execute a file as a module of its own, anew if it has changed; leaves no bytecode beside it."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            "the file of the backbone cannot be read",
            found=error.strerror,
            where=f"{WHERE}: {path}",
            remedy="a relative path is taken from the folder of the configuration",
        ) from None
    name = f"denograd_custom_{hashlib.sha256(os.fsencode(path.absolute()) + b'|' + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path.absolute())
    sys.modules[name] = module
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise _unimportable(str(path), error) from error
    return module


def _by_name(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _unimportable(name, error) from error
        raise ConfigError(
            f"there is no module {name!r}",
            expected="an importable module, or a file such as path/to/nets.py",
            found=f"no module {error.name!r} on the import path",
            where=WHERE,
            remedy="install the package, add its folder to PYTHONPATH, or name the file: path/to/nets.py:MyNet",
        ) from None
    except Exception as error:
        raise _unimportable(name, error) from error


def _unimportable(place: str, error: Exception) -> ConfigError:
    found = _named(error)
    if isinstance(error, SyntaxError):
        found = f"{type(error).__name__}: {error.msg}, line {error.lineno}"
    return ConfigError("the module of the backbone cannot be imported", found=found, where=f"{WHERE}: {place}")


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _file_of(module: str | None) -> Path | None:
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return Path(file) if file else None


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {_reason(error)}"


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:LONGEST_REASON]
