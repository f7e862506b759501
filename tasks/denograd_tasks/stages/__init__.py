"""The stages of a run, one Prefect task a file: each an engine call, with its cache key and its record."""
