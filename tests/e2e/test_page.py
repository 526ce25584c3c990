"""A real browser on the real page, with JavaScript and without."""

import base64
import hashlib
import re
import shutil
import struct

import pytest
import requests
from selenium.webdriver import ActionChains, Keys

from fleet import DATA, ROOT, eventually
from pictures import digit, encode

DRAWN = "[data-mode=draw]"


@pytest.fixture
def fleet(start_fleet):
    """Starts balancers for this test alone."""
    balancers = []

    def fleet(workers, *arguments):
        balancers.append(start_fleet(workers, *arguments))
        return balancers[-1]

    yield fleet
    for balancer in balancers:
        balancer.stop()


def order(balancer, verb):
    assert requests.post(f"{balancer.admin}/fleet/{verb}", timeout=10).status_code == 200, verb


def draw_seven(browser):
    pad = browser.find("#pad")
    pen = ActionChains(browser.driver).move_to_element_with_offset(pad, -55, -80).click_and_hold()
    pen.move_by_offset(110, 0).move_by_offset(-65, 160).release().perform()


def drop(browser, event, name, content, kind="image/png"):
    """Dispatches a drop or paste of a file, or of an address."""
    browser.script(
        """
        const [event, name, content, kind] = arguments;
        const data = new DataTransfer();
        if (name) data.items.add(new File([new Uint8Array(content)], name, {type: kind}));
        else data.setData("text/plain", content);
        const make = {
          paste: () => new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}),
          drop: () => new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}),
        };
        document.body.dispatchEvent(make[event]());
        """,
        event,
        name,
        list(content) if name else content,
        kind,
    )


@pytest.mark.parametrize("number", [1, 3, 7])
def test_choosing_a_digit_shows_its_label_in_place(balancer, browse, picture, number):
    browser = browse(balancer.url)
    browser.find("#image").send_keys(picture(number))
    browser.label(str(number))
    assert browser.driver.current_url.rstrip("/") == balancer.url, "the page stayed"
    assert len(browser.all("#result .bars li")) == 5
    facts = browser.find("#result .facts").text
    assert "Worker" in facts and "mnist" in facts and "ms" in facts
    assert browser.text("#live").startswith(f"It looks like {number}")
    assert not browser.complaints()


def test_without_javascript_the_form_brings_a_result_page(balancer, browse, picture):
    browser = browse(balancer.url, javascript=False)
    assert not browser.find(".tabs").is_displayed(), "JavaScript is on"
    browser.find("#image").send_keys(picture(4))
    browser.click("#go")
    browser.label("4")
    assert browser.driver.current_url == f"{balancer.url}/submit"
    assert len(browser.all("#answer .bars li")) == 5
    assert f"{balancer.url}/submit" in browser.find("#curl").text, "the port is the balancer's own"


def test_a_digit_is_read_while_it_is_drawn(balancer, browse):
    browser = browse(balancer.url)
    browser.click(DRAWN)
    draw_seven(browser)
    browser.label("7")
    assert len(browser.all("#recent-list li")) == 1, "one drawing is one entry"
    browser.click("#undo")
    browser.click("#go")
    assert browser.text("#failure strong") == "Nothing drawn yet"


def test_a_digit_is_drawn_with_the_keyboard(balancer, browse):
    browser = browse(f"{balancer.url}/?mode=draw")
    pad = browser.find("#pad")
    pad.send_keys(Keys.ARROW_UP * 10, Keys.SPACE, Keys.ARROW_DOWN * 20, Keys.SPACE)
    browser.label("1")
    assert browser.focused() == "pad"


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_a_picture_is_taken_from_the_clipboard_and_from_a_drop(balancer, browse, how):
    browser = browse(balancer.url)
    drop(browser, how, "two.png", encode(digit(2)))
    browser.label("2")


def test_the_address_of_a_picture_can_be_pasted_or_typed_and_is_fetched_by_a_worker(balancer, browse):
    browser = browse(balancer.url)
    # Workers fetch nothing from this machine; the answer shows that they were asked to.
    drop(browser, "paste", None, "http://127.0.0.1:9/a.png")
    browser.text("#failure strong")
    assert "IMAGE_URL" in browser.find("#failure span").text or "127.0.0.1" in browser.find("#failure span").text
    for javascript in (True, False):
        browser = browse(f"{balancer.url}/home", javascript=javascript)
        browser.find("#address").send_keys("http://127.0.0.1:9/a.png", Keys.ENTER)
        browser.text("#failure strong" if javascript else ".error h1")


def test_a_file_that_is_no_picture_is_explained_in_place(balancer, browse, tmp_path):
    letter = tmp_path / "letter.jpg"
    letter.write_text("not a picture " * 100)
    browser = browse(balancer.url)
    browser.find("#image").send_keys(str(letter))
    assert "not a picture" in browser.text("#failure").lower()


def test_a_picture_without_a_digit_is_told_as_that(balancer, browse, tmp_path):
    blank = tmp_path / "blank.png"
    blank.write_bytes(encode(digit(1, ink=245)))
    browser = browse(balancer.url)
    browser.find("#image").send_keys(str(blank))
    browser.text("#failure strong", "No digit found")
    browser.script("document.querySelector('#failure').id = 'old'")
    browser.click("#retry")
    browser.text("#failure strong", "No digit found")


def test_the_page_needs_nothing_from_elsewhere(balancer):
    page = requests.get(balancer.url, timeout=10)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "//" not in page.text.replace("http://localhost", ""), "an absolute link"
    # Inline styles and scripts are those that the policy names, and none can be added.
    for element in ("style", "script"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        (allowed,) = re.findall(f"{element}-src ([^;]*)", policy)
        assert allowed.split()[-1] == f"'sha256-{digest}'", element
    # Nothing has to load before the page is painted.
    assert "stylesheet" not in page.text
    assert all('type="module"' in script for script in re.findall(r"<script [^>]*src=[^>]*>", page.text))
    assert "style=" not in page.text
    for asset in ("style.css", "app.js", "favicon.svg"):
        assert requests.get(f"{balancer.url}/{asset}", timeout=10).status_code == 200


def test_a_fleet_without_the_photo_model_says_how_to_get_it(balancer):
    assert "run <code>worker pull mobilenet_v2</code> where" in requests.get(balancer.url, timeout=10).text


def test_the_same_file_can_be_sent_twice(balancer, browse, picture):
    browser = browse(balancer.url)
    for count in (1, 2):
        browser.find("#image").send_keys(picture(3))
        browser.until(lambda: len(browser.all("#recent-list li")) == count, f"{count} answers")


def test_an_earlier_answer_comes_back_with_its_own_picture(balancer, browse, picture):
    browser = browse(balancer.url)
    for number in (3, 7):
        browser.find("#image").send_keys(picture(number))
        browser.label(str(number))
    source = "return document.querySelector(arguments[0]).getAttribute('src')"
    seven = browser.script(source, "#preview")
    browser.click("#recent-list li:last-child button")
    browser.label("3")
    assert browser.script(source, "#preview") != seven
    assert browser.script(source, "#result .thumb") == browser.script(source, "#preview")
    browser.click("#go")
    browser.until(lambda: len(browser.all("#recent-list li")) == 3, "a third answer")
    browser.label("3")


def test_looking_at_another_tab_loses_neither_a_drawing_nor_a_picture(balancer, browse, picture):
    browser = browse(balancer.url)
    browser.find("#image").send_keys(picture(3))
    browser.label("3")
    browser.click(DRAWN)
    draw_seven(browser)
    browser.label("7")
    browser.click("[data-mode=upload]")
    browser.click("#go")
    browser.label("3")
    browser.click(DRAWN)
    browser.click("#go")
    browser.label("7")


def test_a_stroke_that_begins_beside_the_pad_is_drawn(balancer, browse):
    browser = browse(f"{balancer.url}/?mode=draw")
    pad = browser.find("#pad")
    height = pad.size["height"] // 2
    pen = ActionChains(browser.driver).move_to_element_with_offset(pad, 0, -height - 4).click_and_hold()
    pen.move_by_offset(0, height - 60).move_by_offset(0, 120).release().perform()
    browser.label("1")


def test_only_models_that_take_pictures_are_offered_for_them(balancer, browse):
    offered = requests.get(balancer.url, timeout=10).text
    assert '<option value="mnist">' in offered and "iris_model</option>" not in offered
    browser = browse(balancer.url)
    browser.until(lambda: browser.find("#fleet").is_displayed(), "the fleet")
    assert "iris_model" not in browser.script("return document.querySelector('#model').textContent")


def test_measurements_of_an_iris_are_named_while_they_are_set(balancer, browse):
    browser = browse(balancer.url)
    browser.click("[data-mode=iris]")
    browser.text("#answer .label")
    for slider in ("petal_length", "petal_width"):
        browser.find(f"#{slider}").send_keys(Keys.HOME)
    browser.text("#answer .label", "setosa")
    assert len(browser.all(".chart rect")) > 100
    assert not browser.complaints()


def test_an_open_page_follows_the_fleet(fleet, browse, picture):
    balancer = fleet(2)
    browser = browse(balancer.url)
    browser.text("#pill", "2 workers")
    order(balancer, "worker2/drain")
    browser.text("#pill", "1 of 2 workers")
    browser.until(lambda: "drained" in browser.find("#workers").text, "the state of the drained worker")
    order(balancer, "worker1/drain")
    browser.text("#pill", "no worker available")
    browser.until(lambda: browser.find("#notice-none").is_displayed(), "that no worker is ready")
    without = browse(balancer.url, javascript=False)
    assert without.find("#pill").text == "no worker available"
    assert without.find("#notice-none").is_displayed()
    browser.find("#image").send_keys(picture(3))
    browser.text("#failure strong", "No worker is available right now")
    order(balancer, "worker1/undrain")
    browser.until(lambda: not browser.find("#notice-none").is_displayed(), "that a worker is ready")
    browser.click("#retry")
    browser.label("3")


def test_an_open_page_shows_who_answered_and_how_the_picks_are_shared(balancer, browse, picture):
    browser = browse(balancer.url)
    browser.find("#image").send_keys(picture(3))
    browser.label("3")
    picked = browser.find("#workers li.picked b").text
    assert picked in browser.find("#result .facts").text
    told = f"return document.querySelectorAll('#workers li small').length === 4 && [...document.querySelectorAll('#workers li')].find((row) => row.querySelector('b').textContent === '{picked}').textContent.includes('1 answered')"
    browser.until(lambda: browser.script(told), "the answer is counted")
    assert "expected 25.0 %" in browser.find("#workers").text


def test_where_the_fleet_is_not_public_the_page_names_no_worker(fleet, browse, picture):
    balancer = fleet(2, "--no-public-fleet")
    page = requests.get(balancer.url, timeout=10).text
    status = requests.get(f"{balancer.url}/status.json", timeout=10).json()
    assert status["ready"] and not {"endpoints", "workers", "available", "policy"} & status.keys()
    browser = browse(balancer.url)
    browser.text("#pill", "ready")
    assert "worker1" not in page and "2 workers" not in page and not browser.all("#fleet")
    browser.find("#image").send_keys(picture(3))
    browser.label("3")


def test_many_pages_are_told_of_changes_and_the_rest_may_ask(balancer, browse):
    streams = [requests.get(f"{balancer.url}/status/events", stream=True, timeout=30) for _ in range(257)]
    try:
        assert [stream.status_code for stream in streams] == [200] * 256 + [503]
        assert "/status.json" in streams[-1].json()["error"]
        first = next(streams[0].iter_lines())
        assert first == b"retry: 1000" and streams[0].headers["content-type"] == "text/event-stream"
        assert requests.get(f"{balancer.admin}/fleet.json", timeout=10).json()["active_requests"] == 0
        browser = browse(balancer.url)
        browser.until(lambda: "random" in browser.find("#fleet-lead").text, "what a page without a stream has asked for")
    finally:
        for stream in streams:
            stream.close()

    def there_is_room():
        with requests.get(f"{balancer.url}/status/events", stream=True, timeout=30) as stream:
            return stream.status_code == 200

    eventually(there_is_room, 30, "places of streams whose clients have gone")


def test_several_pictures_at_once_are_a_table_and_a_file_for_a_spreadsheet(balancer, browse, picture, tmp_path):
    (tmp_path / "letter.txt").write_text("no picture")
    files = [picture(1), picture(3), picture(7), str(tmp_path / "letter.txt")]
    browser = browse(balancer.url)
    browser.script("window.made = []; const make = URL.createObjectURL; URL.createObjectURL = (blob) => (made.push(blob), make(blob))")
    browser.find("#image").send_keys("\n".join(files))
    browser.text("#batch-text", "4 of 4 pictures classified.")
    rows = [row.text for row in browser.all("#batch tbody tr")]
    assert all(f"digit{n}.png {n}" in row.replace("\n", " ") for n, row in zip((1, 3, 7), rows)), rows
    browser.until(lambda: browser.find("#csv").is_displayed(), "the file")
    csv = browser.driver.execute_async_script("made.find((blob) => blob.type === 'text/csv').text().then(arguments[0])")
    lines = csv.splitlines()
    assert lines[0].startswith("file,label,confidence,model") and len(lines) == 5, csv
    assert lines[2].startswith("digit3.png,3,"), csv


def test_pictures_that_only_the_browser_reads_or_that_are_too_large_are_converted(balancer, browse, tmp_path):
    seven = ROOT / "templates" / "sample-seven.svg"
    browser = browse(balancer.url)
    browser.find("#image").send_keys(str(seven))
    browser.label("7")
    assert "Converted in this browser from SVG" in browser.find("#shrunk").text
    large = tmp_path / "large.bmp"
    large.write_bytes(bitmap_of_a_one(1800, 2000))
    browser.find("#image").send_keys(str(large))
    browser.label("1")
    assert "Made smaller in this browser" in browser.find("#shrunk").text


def bitmap_of_a_one(width, height):
    """A BMP of more than ten megabytes with one upright stroke."""
    row = b"\xff" * (width // 2 - 80) * 3 + b"\x10" * 160 * 3 + b"\xff" * (width - width // 2 - 80) * 3
    blank = b"\xff" * width * 3
    pixels = blank * (height // 4) + row * (height // 2) + blank * (height // 4)
    head = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 2835, 2835, 0, 0) + pixels


def test_what_the_camera_shows_is_classified_and_can_be_kept(balancer, browse):
    browser = browse(balancer.url)
    browser.click("#camera")
    browser.until(lambda: browser.find("#camera-view").is_displayed(), "the camera")
    browser.until(lambda: browser.script("return document.querySelector('#camera-view').videoWidth > 0"), "a frame")
    browser.click("#camera-still")
    browser.until(lambda: browser.find("#preview").is_displayed(), "the frame that was kept")
    assert not browser.find("#camera-view").is_displayed()
    browser.text("#answer .label, #failure strong")


def test_progress_and_cancel_are_in_view_and_announced_and_the_focus_stays(balancer, browse, picture):
    for size in [{"width": 1280, "height": 720}, {"width": 390, "height": 664}, {"width": 320, "height": 640}]:
        browser = browse(balancer.url, **size)
        browser.find("#image").send_keys(picture(3))
        browser.label("3")
        browser.command("Network.enable")
        slow = {"offline": False, "latency": 3000, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.command("Network.emulateNetworkConditions", **slow)
        try:
            browser.find("#go").send_keys(Keys.ENTER)
            browser.until(lambda: browser.find("#cancel").is_displayed(), "a way to cancel")
            for part in ("#progress", "#cancel", "#go"):
                browser.until(lambda: browser.is_in_view(part), f"{part} in view at {size}")
            assert browser.text("#live") in ("Sending the picture.", "A worker is looking at it.")
            assert browser.focused() == "go"
            browser.find("#cancel").send_keys(Keys.ENTER)
            browser.until(lambda: not browser.find("#cancel").is_displayed(), "no more to cancel")
            assert browser.focused() == "go", "the focus is not lost with the button"
        finally:
            browser.command("Network.emulateNetworkConditions", **{**slow, "latency": 0})
        browser.find("#go").send_keys(Keys.ENTER)
        browser.until(lambda: len(browser.all("#recent-list li")) == 2, "an answer")
        assert browser.focused() == "go"


@pytest.mark.parametrize("size", [(320, 640), (390, 844), (640, 500)])
def test_the_label_is_in_view_on_a_small_screen(balancer, browse, picture, size):
    browser = browse(balancer.url, width=size[0], height=size[1])
    browser.find("#image").send_keys(picture(3))
    browser.label("3")
    browser.until(lambda: browser.is_in_view("#answer .label"), "the label in view")
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def test_an_answer_can_be_taken_along(balancer, browse, picture):
    browser = browse(balancer.url)
    browser.find("#image").send_keys(picture(3))
    browser.label("3")
    browser.script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    for kind, part in [
        ("curl", f"-F model=mnist -F image=@digit3.png {balancer.url}/submit"),
        ("python", f'"{balancer.url}/submit"'),
        ("json", '"label": "3"'),
        ("link", "model=mnist"),
    ]:
        browser.click(f"[data-copy={kind}]")
        copied = browser.until(lambda: browser.script("const text = window.copied; window.copied = null; return text"), kind)
        assert part in copied, copied
    assert browser.text("#live") == "Copied."


def test_the_fleet_finds_out_which_parts_of_a_picture_matter(balancer, browse, picture):
    browser = browse(balancer.url)
    browser.find("#image").send_keys(picture(3))
    browser.label("3")
    browser.click("#explain")
    browser.until(lambda: len(browser.all("#map rect")) == 64, "an answer for every part", 60)
    browser.until(lambda: "64 requests" in browser.find("#map figcaption").text, "the sentence")
    assert "worker1" in browser.find("#map figcaption").text, "the requests are spread"
    opacities = browser.script("return [...document.querySelectorAll('#map rect')].map((r) => +r.getAttribute('fill-opacity'))")
    assert min(opacities) < max(opacities), "some parts matter more than others"


def test_one_click_tries_a_sample_picture(balancer, browse):
    browser = browse(balancer.url)
    for sample, label in [("seven", "7"), ("three", "3"), ("five", "5")]:
        browser.find(f"#samples button[title='Sample: {sample}']").click()
        browser.label(label)


def test_the_page_speaks_german_where_the_browser_or_the_address_does(balancer, browse, picture):
    told = requests.get(balancer.url, headers={"accept-language": "de-DE,de;q=0.9,en;q=0.5"}, timeout=10)
    assert '<html lang="de"' in told.text and "Was ist auf dem Bild?" in told.text
    assert "accept-language" in told.headers["vary"]
    browser = browse(f"{balancer.url}/?lang=de")
    browser.text("#pill", "4 Worker")
    browser.find("#image").send_keys(picture(3))
    browser.label("3")
    assert browser.find("#answer .kicker").text == "Das sieht aus wie"
    english = browser.find("footer a[hreflang=en]").get_attribute("href")
    assert requests.get(english, headers={"accept-language": "de"}, timeout=10).text.count('<html lang="en"') == 1


def test_light_and_dark_can_be_chosen_and_are_kept(balancer, browse):
    browser = browse(balancer.url)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.script(paper)
    browser.click("#theme")
    dark = browser.script(paper)
    assert light != dark
    browser.driver.refresh()
    assert browser.script(paper) == dark
    browser.script("localStorage.clear()")


def test_an_error_page_says_what_happened_and_in_what_units(balancer):
    page = requests.post(
        f"{balancer.url}/submit", data=b"x" * 10_000_001, headers={"accept": "text/html", "content-type": "image/png"}, timeout=30
    )
    assert page.status_code == 413 and "The picture is too large" in page.text
    assert "10 MB" in page.text and "10000000" not in page.text
    lost = requests.get(f"{balancer.url}/nothing", headers={"accept": "text/html"}, timeout=10).text
    assert "There is nothing here" in lost and "localhost:5000" not in lost


def test_a_photo_is_named_and_the_model_can_be_chosen(start_fleet, photo_models, browse, picture):
    balancer = start_fleet(2, "--models", photo_models)
    assert 'id="notice-digits" hidden' in requests.get(balancer.url, timeout=10).text
    browser = browse(balancer.url)
    browser.find("#image").send_keys(str(DATA / "photos" / "n02099601_golden_retriever.jpg"))
    browser.until(lambda: "golden retriever" in browser.label(), "a golden retriever")
    browser.click("#explain")
    browser.until(lambda: "64 requests" in browser.find("#map figcaption").text, "the parts that matter", 90)
    opacities = browser.script("return [...document.querySelectorAll('#map rect')].map((r) => +r.getAttribute('fill-opacity'))")
    assert min(opacities) < max(opacities)
    # The picture decides until a model is chosen.
    browser.find("#image").send_keys(picture(7))
    browser.label("7")
    assert "mnist" in browser.find("#result .facts").text
    for sample in ("banana", "traffic light", "umbrella"):
        browser.click(f"[data-sample={sample.replace(' ', '-')}]")
        browser.until(lambda: sample in browser.label(), sample)
    browser.click("#model option[value=mnist]")
    browser.find("#image").send_keys(picture(1))
    browser.label("1")


def test_an_open_page_learns_of_a_new_model(start_fleet, photo_models, browse, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models", models, ignore=shutil.ignore_patterns("mobilenet_v2"))
    balancer = start_fleet(1, "--models", models)
    browser = browse(balancer.url)
    browser.until(lambda: browser.find("#notice-digits").is_displayed(), "that there are only digits")
    shutil.copytree(photo_models / "mobilenet_v2", models / "mobilenet_v2")
    browser.until(lambda: not browser.find("#notice-digits").is_displayed(), "that there are photos", 60)
    assert browser.find("#model").is_displayed()
