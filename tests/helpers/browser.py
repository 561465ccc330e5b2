"""Debian's Chromium, driven by Playwright, with a fresh profile and no way to another host.

While it is open, Playwright's event loop runs in this thread: run no flow between its start and its end.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

EXECUTABLE = shutil.which("chromium")
_NEEDS = {"chromium (apt-get install chromium)": EXECUTABLE, "playwright": find_spec("playwright")}
MISSING = ", ".join(name for name, found in _NEEDS.items() if not found)
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class Chromium:
    """A browser that keeps what went wrong on its pages: errors, alerts, requests to elsewhere.

    Args:
        browser: Playwright's browser.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.problems: list[str] = []
        self.requests: list[str] = []

    def new_page(self, width: int, height: int, dark: bool = False, **options: Any) -> Page:
        """Open an empty page with storage of its own.

        Args:
            width: Of the window, in CSS pixels.
            height: Of the window, in CSS pixels.
            dark: Whether the person prefers dark pages.
            **options: Of Playwright's `Browser.new_context`, as `java_script_enabled`.
        """
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            **options,
        )
        context.set_default_timeout(15_000)
        context.on("request", self._requested)
        context.on("console", self._said)
        context.on("dialog", self._alerted)
        context.on("weberror", lambda error: self.problems.append(f"error: {error.error}"))
        return context.new_page()

    def expect(self, pattern: str) -> None:
        """Take note of problems that a test provokes.

        Raises:
            AssertionError: If none of them looks like that.
        """
        left = [problem for problem in self.problems if not re.search(pattern, problem)]
        assert len(left) < len(self.problems), f"nothing like {pattern!r} in {self.problems}"
        self.problems = left

    def close_pages(self) -> None:
        """Close all pages, and forget what they did."""
        for context in self.browser.contexts:
            context.close()
        self.problems, self.requests = [], []

    def _requested(self, request: Request) -> None:
        self.requests.append(request.url)
        address = urlsplit(request.url)
        here = address.scheme in ("http", "ws") and address.hostname == "127.0.0.1"
        if not here and address.scheme not in ("file", "data", "blob"):
            self.problems.append(f"request to elsewhere: {request.url[:200]}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _alerted(self, dialog: Dialog) -> None:
        self.problems.append(f"{dialog.type}: {dialog.message}")
        dialog.dismiss()


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start Chromium for as long as the context lasts."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=EXECUTABLE, args=_ARGUMENTS, env={**os.environ, "HOME": home}
            )
            try:
                yield Chromium(browser)
            finally:
                browser.close()
