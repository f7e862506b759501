"""Reading exported programs without running anything that hides in them.

`torch.export.load` unpickles whatever an archive marks as pickled, evaluates the shape expressions in its graph, and
looks up the operators that it names. An archive is therefore read in full before: weights must be raw bytes, the
example inputs plain tensors, expressions arithmetic, and operators those of torch. Everything else is refused, and
never loaded.
"""

from __future__ import annotations

import io
import json
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denograd_engine.errors import StoreError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TRACING = threading.RLock()
"""Held while a program is traced, loaded or unpacked: torch.export keeps what it is at in the process. Of several
threads at once most fail, and may leave it so that every later program of the process fails as well."""
_PAYLOAD = re.compile(r"data/(weights|constants)/[^/]+_config\.json")
_EXAMPLES = re.compile(r"data/sample_inputs/[^/]+\.pt")
_GRAPH = re.compile(r"models/[^/]+\.json")
_FACTS = re.compile(r"(\.data/)?(archive_format|archive_version|version|byteorder|serialization_id)|\.format_version")
_RAW = ("weight_", "tensor_")
"""Names of records that are read as the bytes of a tensor."""
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|higher_order|prims)\.\w+(\.\w+)?|torch\.sym_\w+|torch\._C\._set_grad_enabled|_operator\.\w+"
    r"|math\.\w+"
)
_PLAIN = re.compile(r"[\w.+:/\[\]-]*")
"""Names, paths and versions: nothing that could call, wherever it may be written into code."""
_EXPRESSION = re.compile(r"[\w\s()+\-*/,<>=!%&|~.]*")
_SYMBOL = re.compile(r"'[a-z]+\d+'")
_FUNCTIONS = """
    Symbol Integer Rational Float Mul Add Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt FloorToInt
    TruncToInt IntTrueDiv FloatTrueDiv ToFloat ModularIndexing Identity Where Abs And Or Not Eq Ne Ge Gt Le Lt
    Equality Unequality GreaterThan StrictGreaterThan LessThan StrictLessThan
    true false True False int_oo oo positive nonnegative integer real precision
"""
_WORDS = frozenset(_FUNCTIONS.split())
_GUARD = re.compile(r"[\w\s()\[\]'+\-*/,<>=!%.]*")
_GUARD_CALLS = {"size", "stride", "storage_offset", "dim", "numel", "and", "or", "not", "in"}
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def load_program(path: Path) -> ExportedProgram:
    """The program in an archive of `torch.export.save`.

    Raises:
        StoreError: If it is no such archive, or holds anything that loading it would run.
    """
    import torch

    require_inert(path)
    with TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path)


def require_inert(path: Path) -> None:
    """Read every record of an archive, as data.

    Raises:
        StoreError: If a record is none that `torch.export.save` writes for plain tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            records = {name.partition("/")[2]: name for name in names}
            raw: set[str] = set()
            for name, whole in records.items():
                if _PAYLOAD.fullmatch(name):
                    folder = name.rpartition("/")[0]
                    raw |= {f"{folder}/{one}" for one in _raw_records(path, name, json.loads(archive.read(whole)))}
            for name, whole in records.items():
                if name not in raw and not _PAYLOAD.fullmatch(name):
                    _require_plain(path, name, archive.read(whole))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise StoreError(
            "the model is no archive of torch.export.save", found=type(error).__name__, where=str(path)
        ) from None


def _raw_records(path: Path, name: str, config: Any) -> Iterator[str]:
    for entry in config["config"].values():
        record = str(entry["path_name"])
        if entry["use_pickle"] is not False or not record.startswith(_RAW) or "/" in record:
            raise _refused(path, name, "a pickled object")
        yield record


def _require_plain(path: Path, name: str, content: bytes) -> None:
    if _FACTS.fullmatch(name):
        return
    if _EXAMPLES.fullmatch(name):
        _require_tensors(path, name, content)
    elif _GRAPH.fullmatch(name):
        for problem in _active(json.loads(content)):
            raise _refused(path, name, problem)
    else:
        raise _refused(path, name, "a record of an unknown kind")


def _require_tensors(path: Path, name: str, content: bytes) -> None:
    import torch

    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # whatever a crafted record makes the restricted unpickler raise
        raise _refused(path, name, "a pickled object") from None


def _active(plain: Any, key: str = "") -> Iterator[str]:
    """What in a graph is more than data: operators from elsewhere, expressions that call, containers to be imported."""
    if isinstance(plain, list):
        for one in plain:
            yield from _active(one, key)
    elif isinstance(plain, dict):
        for name, value in plain.items():
            if name != "metadata":  # what people read: stack traces and names of classes
                yield from _active(value, name)
    elif isinstance(plain, str):
        yield from _active_text(plain, key)


def _active_text(text: str, key: str) -> Iterator[str]:
    if key in ("target", "as_operator"):
        if not _OPERATOR.fullmatch(text):
            yield "an operator that is not torch's"
    elif key == "expr_str":
        if not _is_arithmetic(text):
            yield "an expression that is no arithmetic"
    elif key == "guards_code":
        calls = set(re.findall(r"(\w+)\s*\(", text))
        if not _GUARD.fullmatch(text) or "__" in text or not calls <= _GUARD_CALLS:
            yield "a guard that is no comparison"
    elif key in ("in_spec", "out_spec"):
        yield from _foreign(json.loads(text))
    elif key != "as_string" and not _PLAIN.fullmatch(text):  # text for operators is quoted wherever it is written
        yield "a name that is none"


def _is_arithmetic(expression: str) -> bool:
    bare = _SYMBOL.sub("", expression)
    if not _EXPRESSION.fullmatch(bare) or re.search(r"\.\D", bare):
        return False
    words = re.findall(r"[A-Za-z_]\w*", bare)
    return all(word in _WORDS or re.fullmatch(r"[a-z]+\d+", word) for word in words)


def _foreign(spec: Any) -> Iterator[str]:
    if isinstance(spec, list):
        for one in spec:
            yield from _foreign(one)
    elif isinstance(spec, dict):
        if spec.get("type") not in _CONTAINERS or "__" in str(spec.get("context")):
            yield "a container that is no tuple, list or dict"
        yield from _foreign(spec.get("children_spec", []))


def _refused(path: Path, record: str, found: str) -> StoreError:
    return StoreError(
        "the model is not loaded, since loading it could run code",
        expected="an archive of torch.export.save that holds tensors and torch's own operators",
        found=f"{found} in {record}",
        where=str(path),
        remedy="export it anew with torch.export.save, or with MLflow's serialization_format='pt2'",
    )
