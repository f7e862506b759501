"""A real browser, headless: what a page becomes in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["quic", "background-networking", "component-update", "sync", "gpu", "extensions", "default-apps"]

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome")


def shown(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page, let its scripts run, and print what has become of it: its elements, and what was logged.

    Args:
        page: The file.
        profile: A folder of the browser's own.
        options: More of the browser's.
    """
    return subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            "--hide-scrollbars",
            *(f"--disable-{name}" for name in QUIET),
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
