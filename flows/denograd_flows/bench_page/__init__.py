"""The page of a benchmark: one self-contained HTML document."""

from denograd_flows.bench_page.page import render_page

__all__ = ["render_page"]
