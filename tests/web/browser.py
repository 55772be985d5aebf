"""A real browser for the page: Playwright with the Chromium of the system. What is missing is said in one line."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

from tubelet.web.bench import Bench
from tubelet.web.server import Serving

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")


def missing() -> str | None:
    """What there is not, in one line; None where the browser tests can run."""
    if find_spec("playwright") is None:
        return "the page is tested with Playwright, which is not installed: pip install playwright"
    if not any(shutil.which(name) for name in BROWSERS):
        return f"the page is tested in a browser, and there is none of {', '.join(BROWSERS)}: apt-get install chromium"
    return None


def required() -> bool:
    """Whether a missing browser is a failure: in continuous integration, which installs one."""
    return os.environ.get("TUBELET_BROWSER") == "required"


def need_browser() -> None:
    """Skips, or fails where a browser is required."""
    if (line := missing()) is not None:
        (pytest.fail if required() else pytest.skip)(line)


@contextmanager
def launched() -> Iterator[Any]:
    """The browser. As root it has no sandbox of its own."""
    from playwright.sync_api import sync_playwright

    path = next(found for name in BROWSERS if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu"] if os.geteuid() == 0 else ["--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        browser.close()


@contextmanager
def served(bench: Bench) -> Iterator[Serving]:
    """A server on a thread of this process, until it is left."""
    serving, up = Serving(bench), threading.Event()
    thread = threading.Thread(target=serving.run, args=(up.set,), name="tubelet-serving")
    thread.start()
    assert up.wait(60)
    try:
        yield serving
    finally:
        serving.stop()
        thread.join(30)
        assert not thread.is_alive()
