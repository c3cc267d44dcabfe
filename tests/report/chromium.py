"""A real Chromium for tests of the page, started once per module; without one these tests are skipped in words.

`python tests/report/chromium.py PAGE ROW PICTURE` takes a picture of a page and one of its rows. docs/report.png is
that of runs/mini/report/report.html and unlabelled-00008.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARTEFACTS = Path(os.environ.get("SICOG_TEST_ARTEFACTS") or ROOT / "runs" / "test-artefacts")  # ignored by git
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


def started(profile: Path) -> Iterator[Browser]:
    """For a fixture: the browser, closed when the module is done."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if not all(programs):
        pytest.skip("the page's tests need chromium and chromedriver (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What the tests do with the page, as a person would: open, click, press keys, look."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, page: Path, fragment: str = "", *, size: tuple[int, int] = (1280, 900), dark: bool = False) -> None:
        """Open by file://, anew, as by a double click."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, calm]})
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(page.resolve().as_uri() + fragment)

    def do(self, script: str, *arguments):
        """Run a script in the page; returns what it returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, seconds: float = 15):
        """Wait for a script to return something true; returns it."""
        end = time.monotonic() + seconds
        while not (value := self.do(script)):
            assert time.monotonic() < end, f"still not true: {script}; console: {self.driver.get_log('browser')}"
            time.sleep(0.02)
        return value

    def choose(self, field: str, value: str) -> None:
        """Set a field of the filter as typing or picking does."""
        self.do(
            "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true}))",
            field,
            value,
        )

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).send_keys(getattr(Keys, key)).perform()

    def words(self, selector: str) -> str:
        """The visible words of the first such element."""
        return " ".join(self.do("return document.querySelector(arguments[0])?.innerText ?? ''", selector).split())

    def complaints(self) -> list[str]:
        """Errors in the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, name: str) -> Path:
        """Keep what is on the screen as a test artefact."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(ARTEFACTS / f"{name}.png"))
        return ARTEFACTS / f"{name}.png"


def take_picture(page: Path, row: str, picture: Path) -> None:
    """The browser of rows with one row, in few colours: a small file."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as profile:
        browsers = started(Path(profile))
        browser = next(browsers)
        browser.open(page, f"#row={row}", size=(1180, 960))
        browser.until(
            f"return document.querySelector('.row-head h3')?.textContent === '{row}' && index.places === null"
        )
        browser.until("return [...document.images].every((image) => image.complete)")
        browser.do("document.querySelector('nav').hidden = true")
        browser.do("scrollTo(0, scrollY + document.querySelector('#rows h2').getBoundingClientRect().top - 14)")
        time.sleep(0.3)
        browser.driver.save_screenshot(str(picture))
        browsers.close()
    Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
