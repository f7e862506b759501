"""`python -m denograd_flows` is the `denograd` command."""

from denograd_flows.cli import main

main()
