"""What the commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 bad input or configuration, 3 refused by a gate, 4 not as it was published, "
    "5 the data drifted."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of the libraries, and tracebacks.")]
Named = Annotated[str, typer.Argument(metavar="NAME[@N]", help="A data set, or one of its versions by number or tag.")]
Root = Annotated[
    str | None,
    typer.Option(
        "--root",
        help="Where versions are published; default: where ./denograd.yaml says, or .denograd/published.",
        show_default=False,
    ),
]
