"""What the files of a version say, against what its manifest says of them.

Whoever exchanges a file and writes its new sha256 into the manifest has to get all of this right as well.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from denograd_engine.errors import ServiceError
from denograd_tasks.audit.files import Ledger
from denograd_tasks.audit.findings import Finding
from denograd_tasks.content import ContentDigest
from denograd_tasks.home import scratch
from denograd_tasks.models import ARCHITECTURE, PROGRAM, SCALING, WEIGHTS, tensors_digest, weights_in
from denograd_tasks.posteriors import DESCRIPTION
from denograd_tasks.records import File
from denograd_tasks.store import Store

VERDICT = "verdict.json"


def content_findings(ledger: Ledger, number: int, content: Mapping[str, Any], files: Sequence[File]) -> list[Finding]:
    """Recompute the digests of snapshot, refined data and model, and compare the gates with the verdict.

    Args:
        ledger: Of the files' digests; what is not intact is left out, since it is named already.
        number: Of the version.
        content: Its manifest.
        files: All that it names.
    """
    store = ledger.store
    source, model = content["source"], content["model"]
    checks: list[tuple[Any, str, str, Callable[[Sequence[str]], object]]] = [
        (source["files"], "the snapshot", source["snapshot"], lambda paths: table_digest(store, paths)),
        (content["files"], "the refined data", content["content_digest"], lambda paths: table_digest(store, paths)),
        (model["files"], "the model", model["digest"], lambda paths: model_digest(store, paths)),
        (
            [file.model_dump() for file in files if file.path.endswith(f"/{VERDICT}")],
            "the verdict",
            content["gates"],
            lambda paths: json.loads(store.read(paths[0]))["gates"],
        ),
    ]
    findings = []
    for named, what, expected, recompute in checks:
        paths = [one["path"] for one in named]
        if not paths or not all(ledger.intact(file) for file in files if file.path in paths):
            continue
        try:
            found = recompute(paths)
        except (ServiceError, MemoryError):
            raise
        except Exception:  # whatever a damaged file makes pyarrow, torch or json raise
            found = "nothing that can be read here"
        if found != expected:
            digests = (str(expected), str(found)) if isinstance(expected, str) else (None, None)
            problem = f"{what} is not what the manifest says of it"
            findings.append(Finding(number, paths[0], "exchanged", problem, *digests))
    return findings


def table_digest(store: Store, paths: Sequence[str]) -> str:
    """The digest of a table's content, block by block (see `content.py`)."""
    digest: ContentDigest | None = None
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        for path in paths:
            with pq.ParquetFile(store.fetch(path, Path(folder))) as file:
                digest = digest or ContentDigest(file.schema_arrow)
                for batch in file.iter_batches():
                    digest.update(batch)
    assert digest is not None
    return digest.hexdigest()


def model_digest(store: Store, paths: Sequence[str]) -> str:
    """The digest of an exported model, from its files alone: no code of the user's is needed, and none is run."""
    by_name = {path.rsplit("/", 1)[-1]: path for path in paths}
    described = store.read(by_name[DESCRIPTION if DESCRIPTION in by_name else ARCHITECTURE])
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        if WEIGHTS in by_name:
            tensors: Mapping[str, Any] = weights_in(store.fetch(by_name[WEIGHTS], Path(folder)))
        else:
            from denograd_tasks.inert import load_program

            tensors = load_program(store.fetch(by_name[PROGRAM], Path(folder))).state_dict
        return tensors_digest(described + store.read(by_name[SCALING]), tensors)
