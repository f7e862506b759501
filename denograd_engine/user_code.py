"""Classes and functions of the user's own, by name: `mypkg.nets:MyNet` or `path/to/nets.py:MyNet`.

Importing one runs the code that the user named, and nothing else.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from denograd_engine.errors import ConfigError

LONGEST_REASON = 200


class Use(NamedTuple):
    """What a name stands for, for people: `what` it is, `where` it was given, and what was `expected` of it."""

    what: str
    where: str
    expected: str


BACKBONE = Use("backbone", "backbone.kind", "a class, or a function that returns a torch.nn.Module")
CRITERION = Use(
    "criterion", "backbone.training.criterion", "a function of predictions and targets, or a loss of torch.nn"
)


def is_custom(kind: str) -> bool:
    """Whether this names something of the user's own rather than something of ours.

    >>> is_custom("mypkg.nets:MyNet"), is_custom("nets.py:MyNet"), is_custom("mlp"), is_custom("models:/name/3")
    (True, True, False, False)
    """
    module, _, name = kind.rpartition(":")
    return bool(module) and name.isidentifier() and (_is_file(module) or _is_dotted(module))


def load(kind: str, use: Use) -> Callable[..., Any]:
    """The class or factory of this name.

    Args:
        kind: `package.module:Name`, or `path/to/file.py:Name`, relative to the working folder.
        use: What it stands for.

    Raises:
        ConfigError: If the module cannot be found or imported, or has nothing callable of that name.
    """
    place, _, name = kind.rpartition(":")
    module = _from_file(Path(place).expanduser(), use) if _is_file(place) else _by_name(place, use)
    found = getattr(module, name, None)
    if not callable(found):
        own = [
            one
            for one, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__ and not one.startswith("_")
        ]
        raise ConfigError(
            f"there is no {use.what} {name!r} in {place}",
            expected=use.expected,
            found=("nothing of that name" if found is None else f"a {type(found).__name__}")
            + (f"; its own classes are {', '.join(own[:8])}" if own else ""),
            where=use.where,
        )
    factory: Callable[..., Any] = found
    return factory


def source_digest(kind: str, use: Use) -> str:
    """sha256 of the files that hold the named module and, if it comes from elsewhere, the class or function.

    What these import is not looked at.

    Raises:
        ConfigError: If the module or the name in it cannot be found.
    """
    factory = load(kind, use)
    place = kind.rpartition(":")[0]
    named = Path(place).expanduser() if _is_file(place) else _file_of(place)
    digest = hashlib.sha256()
    for path in dict.fromkeys((named, _file_of(getattr(factory, "__module__", None)) or named)):
        digest.update(hashlib.sha256(path.read_bytes() if path else b"").digest())
    return digest.hexdigest()


def _from_file(path: Path, use: Use) -> ModuleType:
    """Execute a file as a module of its own, anew if it has changed; leaves no bytecode beside it."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the file of the {use.what} cannot be read",
            found=error.strerror,
            where=f"{use.where}: {path}",
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
        raise _unimportable(str(path), error, use) from error
    return module


def _by_name(name: str, use: Use) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _unimportable(name, error, use) from error
        raise ConfigError(
            f"there is no module {name!r}",
            expected="an importable module, or a file such as path/to/nets.py",
            found=f"no module {error.name!r} on the import path",
            where=use.where,
            remedy="install the package, add its folder to PYTHONPATH, or name the file: path/to/nets.py:MyNet",
        ) from None
    except Exception as error:
        raise _unimportable(name, error, use) from error


def _unimportable(place: str, error: Exception, use: Use) -> ConfigError:
    found = described(error)
    if isinstance(error, SyntaxError):
        found = f"{type(error).__name__}: {error.msg}, line {error.lineno}"
    return ConfigError(f"the module of the {use.what} cannot be imported", found=found, where=f"{use.where}: {place}")


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _file_of(module: str | None) -> Path | None:
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return Path(file) if file else None


def described(error: Exception) -> str:
    """Kind and reason of an error, in one line."""
    return f"{type(error).__name__}: {reason(error)}"


def reason(error: Exception) -> str:
    """The first line of what an error says, if that is not too long."""
    return str(error).partition("\n")[0][:LONGEST_REASON]
