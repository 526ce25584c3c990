"""The public pages: what axe finds in every state, the effect of the window's size, and their weight."""

import gzip
import re
import shutil
import subprocess

import pytest
import requests

from fleet import ROOT
from pictures import digit, encode
from test_page import draw_seven

PAGE = ROOT / "tests" / "e2e" / "page"
LOOKS = [{}, {"dark": True}, {"forced": True}, {"width": 320, "height": 640}]


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "three.png"
    path.write_bytes(encode(digit(3)))
    return str(path)


def show_answer(browser, three):
    browser.find("#image").send_keys(three)
    browser.label("3")


def show_failure(browser, three):
    browser.click("[data-mode=draw]")
    browser.click("#go")
    browser.text("#failure strong")


def show_drawing(browser, three):
    browser.click("[data-mode=draw]")
    draw_seven(browser)
    browser.label("7")


def show_iris(browser, three):
    browser.click("[data-mode=iris]")
    browser.text("#answer .label")


def show_several(browser, three):
    browser.find("#image").send_keys(f"{three}\n{three}")
    browser.text("#batch-text", "2 of 2 pictures classified.")


def show_map(browser, three):
    show_answer(browser, three)
    browser.click("#explain")
    browser.until(lambda: "64 requests" in browser.find("#map figcaption").text, "the map", 60)


STATES = {
    "empty": lambda browser, three: None,
    "answer": show_answer,
    "failure": show_failure,
    "drawing": show_drawing,
    "iris": show_iris,
    "several": show_several,
    "map": show_map,
}


@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing_in_any_state_of_the_page_however_it_is_looked_at(balancer, browse, three, state):
    for look in LOOKS:
        browser = browse(balancer.url, **look)
        browser.until(lambda: browser.find("#fleet").is_displayed(), "the fleet")
        STATES[state](browser, three)
        assert browser.violations() == [], look
        assert browser.script("return document.documentElement.scrollWidth <= innerWidth"), f"{look}: sticks out"


def test_axe_finds_nothing_on_the_other_pages(balancer, browse):
    for url in [f"{balancer.admin}/fleet", f"{balancer.admin}/fleet?lang=de", f"{balancer.url}/nothing", f"{balancer.url}/?lang=de"]:
        for look in LOOKS:
            browser = browse(url, **look)
            browser.text("h1")
            assert browser.violations() == [], (url, look)
            assert browser.script("return document.documentElement.scrollWidth <= innerWidth"), f"{url} {look}: sticks out"


@pytest.mark.parametrize("times", [2, 4])
def test_enlarged_nothing_is_cut_off(balancer, browse, three, times):
    # 1280 pixels at 400 % leave 320.
    size = {"width": 1280 // times, "height": 1024 // times, "scale": times}
    browser = browse(f"{balancer.admin}/fleet", **size)
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    browser = browse(balancer.url, **size)
    show_answer(browser, three)
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    browser.until(lambda: browser.is_in_view("#answer .label"), "the label in view")


def test_in_high_contrast_buttons_have_edges_and_the_chosen_tab_is_marked(balancer, browse):
    browser = browse(balancer.url, forced=True)
    style = """
        const style = getComputedStyle(document.querySelector(arguments[0]));
        return [style.borderTopStyle, style.borderTopColor, style.backgroundColor];
    """
    for button in ("#go", "[data-mode=draw]", "#theme", "#samples button"):
        edge, colour, ground = browser.script(style, button)
        assert edge == "solid" and colour != ground, f"{button}: {edge} {colour} on {ground}"
    chosen, other = (browser.script(style, f"[aria-pressed={pressed}]") for pressed in ("true", "false"))
    assert chosen[2] != other[2]


def test_the_edges_of_what_is_operated_can_be_seen(balancer, browse):
    luminance = """
        const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((value) => {
          const share = value / 255;
          return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        const light = (colour) => numbers(colour).reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
        const edge = light(getComputedStyle(document.querySelector(arguments[0])).borderTopColor);
        const ground = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
        return (Math.max(edge, ground) + 0.05) / (Math.min(edge, ground) + 0.05);
    """
    for dark in (False, True):
        browser = browse(f"{balancer.url}/?mode=draw", dark=dark)
        for part in ("#pad", "#servers", "#undo", "#samples button"):
            assert browser.script(luminance, part) >= 3, f"{part}, dark: {dark}"


def test_the_page_is_worked_with_the_keyboard_alone(balancer, browse):
    from selenium.webdriver import ActionChains, Keys

    browser = browse(balancer.url)
    browser.until(lambda: browser.find("#fleet").is_displayed(), "the fleet")
    reached = []
    for _ in range(40):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        here = browser.script(
            "const e = document.activeElement; return e === document.body ? '' : e.id || e.dataset.mode || e.className || e.getAttribute('hreflang')"
        )
        if not here or here in reached[:1]:
            break
        reached.append(here)
    for part in ("skip", "theme", "upload", "draw", "iris", "image", "camera", "servers", "go", "address"):
        assert part in reached, reached
    assert reached.index("image") < reached.index("go") < reached.index("address")


def test_the_page_weighs_little_and_is_kept(balancer):
    page = requests.get(balancer.url, timeout=10)
    assert page.headers["content-encoding"] == "gzip"
    same = requests.get(balancer.url, headers={"if-none-match": page.headers["etag"]}, timeout=10)
    assert same.status_code == 304
    plain, packed = len(page.text.encode()), len(gzip.compress(page.content))
    names = {"favicon.svg"}
    todo = ["app.js"]
    folder = re.search(r'src="(assets/\w+/)app.js"', page.text.replace("&#x2f;", "/"))[1]
    while todo:
        name = todo.pop()
        names.add(name)
        script = requests.get(f"{balancer.url}/{folder}{name}", timeout=10).text
        todo += {one for one in re.findall(r'from "\./([\w-]+\.js)"', script)} - names
    for name in names:
        answer = requests.get(f"{balancer.url}/{folder}{name}", timeout=10, stream=True)
        assert "immutable" in answer.headers["cache-control"] and answer.headers["content-encoding"] == "gzip"
        packed += int(answer.headers["content-length"])
        plain += len(answer.content)
    assert plain < 80_000 and packed < 25_000, (plain, packed)


@pytest.mark.parametrize("slower", [1, 6])
def test_nothing_moves_while_the_page_comes_up(balancer, browse, slower):
    browser = browse("about:blank")
    browser.driver.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": slower})
    browser.driver.get(balancer.url)
    browser.until(lambda: browser.find("#fleet").is_displayed(), "the fleet")
    moved = browser.driver.execute_async_script(
        """
        const done = arguments[0];
        const moved = [];
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) {
            if (!entry.hadRecentInput) moved.push([entry.value, ...entry.sources.map(({node, previousRect, currentRect}) => `${node?.nodeName}#${node?.id} ${JSON.stringify(previousRect)} ${JSON.stringify(currentRect)}`)]);
          }
        }).observe({type: "layout-shift", buffered: true});
        requestAnimationFrame(() => requestAnimationFrame(() => done(moved)));
        """
    )
    assert sum(one[0] for one in moved) < 0.01, moved


@pytest.mark.skipif(shutil.which("node") is None, reason="SKIPPED: no Node (Debian: apt install nodejs)")
def test_the_scripts_keep_their_promises():
    done = subprocess.run(["node", "--test", "."], cwd=PAGE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    for script in (ROOT / "templates").glob("*.js"):
        assert len(script.read_text().splitlines()) < 200, script.name


@pytest.mark.skipif(not (PAGE / "node_modules" / "typescript").exists(), reason="SKIPPED: no tsc (npm ci --prefix tests/e2e/page)")
def test_the_types_of_the_scripts_hold():
    done = subprocess.run(["node", "node_modules/typescript/bin/tsc", "-p", "."], cwd=PAGE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
