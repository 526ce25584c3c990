"""A real browser on the real page, with JavaScript and without."""

import shutil

import pytest
import requests
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from fleet import DATA
from models import copy_shipped
from pictures import digit, encode

DRIVER = shutil.which("chromedriver")
# A test browser has no business on the internet.
QUIET = [
    "--headless=new",
    "--window-size=1200,1000",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
]


@pytest.fixture
def browse():
    """Opens browsers that end with the test."""
    if DRIVER is None:
        pytest.skip("SKIPPED: no chromedriver (Debian: apt install chromium chromium-driver)")
    browsers = []

    def browse(url, javascript=True):
        options = webdriver.ChromeOptions()
        for argument in QUIET:
            options.add_argument(argument)
        if not javascript:
            setting = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", setting)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(DRIVER))
        browsers.append(browser)
        browser.get(url)
        return browser

    yield browse
    for browser in browsers:
        browser.quit()


@pytest.fixture
def picture(tmp_path):
    def picture(number):
        path = tmp_path / f"digit{number}.png"
        path.write_bytes(encode(digit(number)))
        return str(path)

    return picture


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def label(browser):
    """The label that the page shows, once it shows one."""
    return text(browser, "#answer .label")


def text(browser, selector, expected=None):
    """The text of `selector`, once there is one (and is `expected`). The page replaces an answer by the
    next, so an element may be gone between finding and reading it: then it is looked up again."""

    def read(browser):
        found = find(browser, selector).text
        return found if expected is None or found == expected else None

    ignored = [NoSuchElementException, StaleElementReferenceException]
    wait = WebDriverWait(browser, 20, ignored_exceptions=ignored)
    return wait.until(read, f"{selector} shows no {expected or 'text'}")


def complaints(browser):
    """What the browser's console has to say, above all about the content security policy."""
    return [line["message"] for line in browser.get_log("browser") if "favicon" not in line["message"]]


@pytest.mark.parametrize("number", [1, 3, 7])
def test_choosing_a_digit_shows_its_label_in_place(balancer, browse, picture, number):
    browser = browse(balancer.url)
    find(browser, "#image").send_keys(picture(number))
    assert label(browser) == str(number)
    assert browser.current_url.rstrip("/") == balancer.url, "the page stayed"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#result .bars li")) == 5
    facts = find(browser, "#result .facts").text
    assert "Worker" in facts and "mnist" in facts and "ms" in facts
    assert not complaints(browser)


def test_without_javascript_the_form_brings_a_result_page(balancer, browse, picture):
    browser = browse(balancer.url, javascript=False)
    assert not find(browser, "#tab-upload").is_displayed(), "JavaScript is on"
    find(browser, "#image").send_keys(picture(4))
    find(browser, "#go").click()
    assert label(browser) == "4"
    assert browser.current_url == f"{balancer.url}/submit"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#answer .bars li")) == 5


def test_a_drawn_digit_is_read(balancer, browse):
    browser = browse(balancer.url)
    find(browser, "#tab-draw").click()
    pad = find(browser, "#pad")
    pen = ActionChains(browser).move_to_element_with_offset(pad, -55, -80).click_and_hold()
    pen.move_by_offset(110, 0).move_by_offset(-65, 160).release().perform()
    find(browser, "#go").click()
    assert label(browser) == "7"


def test_a_pasted_picture_is_read(balancer, browse):
    browser = browse(balancer.url)
    browser.execute_script(
        """
        const bytes = new Uint8Array(arguments[0]);
        const data = new DataTransfer();
        data.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
        """,
        list(encode(digit(2))),
    )
    assert label(browser) == "2"


def test_a_file_that_is_no_picture_is_explained_in_place(balancer, browse, tmp_path):
    letter = tmp_path / "letter.jpg"
    letter.write_text("not a picture " * 100)
    browser = browse(balancer.url)
    find(browser, "#image").send_keys(str(letter))
    assert "not a picture" in text(browser, "#failure")


def test_the_page_needs_nothing_from_elsewhere(balancer):
    page = requests.get(balancer.url, timeout=10)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "//" not in page.text.replace("http://localhost", ""), "an absolute link"
    assert "style=" not in page.text and "<script>" not in page.text
    for asset in ("style.css", "app.js", "favicon.svg"):
        assert requests.get(f"{balancer.url}/{asset}", timeout=10).status_code == 200


def test_a_fleet_without_the_photo_model_says_how_to_get_it(balancer):
    assert "worker pull mobilenet_v2" in requests.get(balancer.url, timeout=10).text


def test_the_page_follows_what_the_workers_learn_without_a_reload(start_fleet, browse, picture, tmp_path):
    models = copy_shipped(tmp_path / "models", "mnist")
    balancer = start_fleet(1, "--models", models)
    browser = browse(balancer.url)
    assert "Digits only so far" in find(browser, "#notices").text
    assert not browser.find_elements(By.CSS_SELECTOR, "#model")
    browser.execute_script("window.isTheSame = true")
    find(browser, "#image").send_keys(picture(1))
    assert label(browser) == "1"
    # Only the name counts here: it is the model of digits under that of photos.
    shutil.copytree(models / "mnist", tmp_path / "mobilenet_v2")
    (tmp_path / "mobilenet_v2").rename(models / "mobilenet_v2")
    WebDriverWait(browser, 60).until(lambda browser: not find(browser, "#notices").text, "the notice stays")
    assert text(browser, "#model option:checked") == "Photos (MobileNetV2)"
    assert "a photo or a handwritten digit" in find(browser, "#hero").text
    assert label(browser) == "1", "the answer stayed"
    assert browser.execute_script("return window.isTheSame"), "the page stayed"
    assert not complaints(browser)


def test_a_photo_is_named_and_the_model_can_be_chosen(start_fleet, photo_models, browse, picture):
    balancer = start_fleet(2, "--models", photo_models)
    assert "worker pull" not in requests.get(balancer.url, timeout=10).text
    browser = browse(balancer.url)
    find(browser, "#image").send_keys(str(DATA / "photos" / "n02099601_golden_retriever.jpg"))
    assert "golden retriever" in label(browser)
    find(browser, "#model option[value=mnist]").click()
    find(browser, "#image").send_keys(picture(1))
    assert text(browser, "#answer .label", "1")
