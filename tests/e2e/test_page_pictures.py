"""The pictures of the README, light and dark: IMAGEFLEET_PICTURES=1 IMAGEFLEET_PROFILE=release pytest -k pictures"""

import base64
import os

import pytest
import requests
from PIL import Image

from fleet import ROOT, Threads, eventually
from pictures import digit, encode
from test_page import DRAWN, draw_seven

pytestmark = pytest.mark.skipif(
    os.environ.get("IMAGEFLEET_PICTURES") != "1", reason="SKIPPED: IMAGEFLEET_PICTURES=1 makes the README's pictures"
)


def save(browser, name):
    path = ROOT / "docs" / f"{name}.png"
    browser.script("document.activeElement?.blur?.(); scrollTo(0, 0)")
    # The whole page, without a scrollbar.
    browser.command("Emulation.setScrollbarsHidden", hidden=True)
    width, height = browser.script("return [innerWidth, document.documentElement.scrollHeight]")
    whole = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = browser.command("Page.captureScreenshot", captureBeyondViewport=True, clip=whole)
    browser.command("Emulation.setScrollbarsHidden", hidden=False)
    path.write_bytes(base64.b64decode(taken["data"]))
    # Few colours: the repository keeps every version.
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


@pytest.fixture(scope="module")
def busy(start_fleet, photo_models):
    """A fleet of four workers under load."""
    balancer = start_fleet(4, "--models", photo_models, "--worker-threads", "1")

    def ask():
        while not work.ending.is_set():
            requests.post(f"{balancer.url}/submit", data={"model": "mnist"}, files={"image": encode(digit(3))}, timeout=30)

    work = Threads(2, ask)
    with work:
        yield balancer


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_of_the_page(start_fleet, photo_models, browse, dark):
    balancer = start_fleet(4, "--models", photo_models)
    suffix = "-dark" if dark else ""
    browser = browse(balancer.url, width=1180, height=1010, dark=dark)
    # Pictures drawn for the page: other people's photos are not ours to show.
    for sample, label in [("seven", "7"), ("traffic-light", "traffic light"), ("umbrella", "umbrella")]:
        browser.click(f"[data-sample={sample}]")
        browser.until(lambda: label in browser.label(), label)
    eventually(lambda: float(browser.find(".bar-fill").get_attribute("width").rstrip("%")) > 0, 5, "the bars")
    browser.driver.execute_async_script("setTimeout(arguments[0], 700)")
    save(browser, f"page{suffix}")
    browser.click(DRAWN)
    draw_seven(browser)
    browser.label("7")
    save(browser, f"page-draw{suffix}")
    balancer.stop()


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_of_the_fleet(busy, browse, dark):
    requests.post(f"{busy.admin}/fleet/worker4/drain", timeout=10)
    browser = browse(f"{busy.admin}/fleet", width=1400, height=560, dark=dark)
    enough = "return Math.max(...[...document.querySelectorAll('.curve .rate')].map((c) => c.getAttribute('points').split(' ').length)) > 20"
    browser.until(lambda: browser.script(enough), "a minute of curves", 120)
    save(browser, f"fleet{'-dark' if dark else ''}")
