"""Debian's Chromium, without a window and without a network of its own, for pages in files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
_PATIENCE = 30  # seconds


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """NOT RUN where there is no Chromium; `scripts/setup tools` installs it."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("NOT RUN: no chromium and chromedriver here")
    options = Options()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="buildctl-chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        try:
            chrome.set_page_load_timeout(_PATIENCE)
            chrome.set_script_timeout(_PATIENCE)
            yield chrome
        finally:
            chrome.quit()


def show(chrome: webdriver.Chrome, page: Path, *, scheme: str = "light", width: int = 1280) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get(page.as_uri())


def _log(chrome: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chrome.get_log(kind)  # type: ignore[no-untyped-call]
    return found


def requested(chrome: webdriver.Chrome) -> list[str]:
    """Every address that pages asked for since the last call."""
    events: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in _log(chrome, "performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def complaints(chrome: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in _log(chrome, "browser")]
