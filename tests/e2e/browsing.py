"""Real browsers, one with JavaScript and one without, shared by all tests of a session."""

import json
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

DRIVER = shutil.which("chromedriver")
# A test browser has no business on the internet.
QUIET = [
    "--headless=new",
    "--window-size=1280,1000",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--lang=en-US",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
AXE = Path(__file__).parent / "page" / "node_modules" / "axe-core" / "axe.min.js"
# WCAG 2.2 AA, plus the best practices that axe's makers recommend.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Browser:
    """A browser and the operations that tests need."""

    def __init__(self, javascript):
        options = webdriver.ChromeOptions()
        for argument in QUIET:
            options.add_argument(argument)
        if not javascript:
            setting = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", setting)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open(self, url, width=1280, height=1000, media=(), scale=1, dark=False, forced=False):
        """Shows a page in a window of this size, with these preferences set."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        features.append({"name": "forced-colors", "value": "active" if forced else "none"})
        # No animations: an element stays where it was found until it is clicked.
        features.append({"name": "prefers-reduced-motion", "value": "reduce"})
        features += [{"name": name, "value": value} for name, value in media]
        self.command("Emulation.setEmulatedMedia", media="", features=features)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(url)
        return self

    def command(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector):
        self.find(selector).click()

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def until(self, condition, what, seconds=20):
        """The first true value of `condition`, which may look for elements that the page is about to replace."""
        ignored = [NoSuchElementException, StaleElementReferenceException]
        wait = WebDriverWait(self.driver, seconds, poll_frequency=0.05, ignored_exceptions=ignored)
        return wait.until(lambda _: condition(), what)

    def text(self, selector, expected=None):
        """The text of `selector`, once there is one (and it is `expected`)."""

        def read():
            found = self.find(selector).text
            return found if expected is None or found == expected else None

        return self.until(read, f"{selector} shows no {expected or 'text'}")

    def label(self, expected=None):
        """The label that the page shows, once it shows one."""
        return self.text("#answer .label", expected)

    def is_in_view(self, selector):
        """Whether the whole element is visible without scrolling."""
        return self.script(
            """
            const {top, bottom, left, right} = document.querySelector(arguments[0]).getBoundingClientRect();
            return top >= 0 && left >= 0 && bottom <= innerHeight + 1 && right <= innerWidth + 1;
            """,
            selector,
        )

    def focused(self):
        """The id of the focused element."""
        return self.script("return document.activeElement?.id ?? ''")

    def complaints(self):
        """Messages in the browser's console, above all about the content security policy."""
        return [line["message"] for line in self.driver.get_log("browser") if "favicon" not in line["message"]]

    def violations(self):
        """What axe finds wrong with the page in its current state."""
        if not AXE.exists():
            pytest.skip("SKIPPED: no axe-core (npm ci --prefix tests/e2e/page)")
        self.script(AXE.read_text())
        found = self.driver.execute_async_script(
            "axe.run(document, {runOnly: arguments[0]}).then(arguments[1], (e) => arguments[1]({violations: [String(e)]}))",
            RULES,
        )["violations"]
        return [json.dumps(one)[:600] for one in found]

    def screenshot(self, path):
        self.driver.save_screenshot(str(path))


@pytest.fixture(scope="session")
def browsers():
    if DRIVER is None:
        pytest.skip("SKIPPED: no chromedriver (Debian: apt install chromium chromium-driver)")
    started = {}

    def browser(javascript=True):
        if javascript not in started:
            started[javascript] = Browser(javascript)
        return started[javascript]

    yield browser
    for browser in started.values():
        browser.driver.quit()


@pytest.fixture
def browse(browsers):
    """Shows a page: browse(url, javascript=True, width=…, dark=…)."""

    def browse(url, javascript=True, **how):
        return browsers(javascript).open(url, **how)

    return browse
