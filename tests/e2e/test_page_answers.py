"""What the page makes of an answer: wording, the model's input, commands that run, and printing."""

import base64
import json
import subprocess
import sys

import pytest
import requests
from selenium.webdriver import ActionChains, Keys

from fleet import eventually
from pictures import digit, encode
from scripted import ScriptedWorker, prediction
from test_page import DRAWN, draw_seven


@pytest.fixture(scope="module")
def scripted(start):
    """A balancer in front of a worker that answers as a test says."""
    worker = ScriptedWorker()
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", f"worker1={worker.address}", "--max-in-flight", "16")
    balancer.worker = worker
    ready = f"{balancer.url}/status.json"
    eventually(lambda: "mnist" in requests.get(ready, timeout=10).json()["models"], 30, "what the worker serves")
    yield balancer
    balancer.stop()
    worker.shutdown()


@pytest.fixture(autouse=True)
def as_usual(scripted):
    scripted.worker.answer = prediction("tiger cat")


def test_an_answer_of_little_confidence_is_told_as_a_guess(scripted, browse, picture):
    for confidence, words in ((0.49, "Not sure, perhaps"), (0.51, "It looks like")):
        scripted.worker.answer = prediction("tiger cat", confidence)
        for javascript in (True, False):
            browser = browse(scripted.url, javascript=javascript)
            browser.find("#image").send_keys(picture(3))
            if not javascript:
                browser.click("#go")
            browser.label("tiger cat")
            assert browser.find("#answer .kicker").text == words


def test_the_page_leaves_it_to_the_picture_until_a_model_is_chosen(scripted, browse, picture):
    browser = browse(scripted.url)
    browser.text("#default-model", "Without a model named, mobilenet_v2 answers.")
    assert [option.text for option in browser.all("#model option")] == [
        "Photo or digit (automatic)",
        "Photos (MobileNetV2)",
        "Handwritten digits (MNIST)",
    ]
    for chosen, sent in (("auto", b"auto"), ("mnist", b"mnist"), ("mobilenet_v2", b"mobilenet_v2")):
        if chosen != "auto":
            browser.click(f"#model option[value={chosen}]")
        count = len(browser.all("#recent-list li"))
        browser.find("#image").send_keys(picture(3))
        browser.until(lambda: len(browser.all("#recent-list li")) == count + 1, "an answer")
        assert b'name="model"\r\n\r\n' + sent in scripted.worker.bodies[-1]


def test_what_a_model_of_few_pixels_looked_at_is_drawn(scripted, browse, picture):
    pixels = bytes(255 * (x == y) for y in range(28) for x in range(28))
    shown = {"width": 28, "height": 28, "channels": 1, "pixels": base64.b64encode(pixels).decode()}
    scripted.worker.answer = prediction("3", model="mnist", input=shown)
    browser = browse(scripted.url)
    browser.find("#image").send_keys(picture(3))
    browser.until(lambda: browser.find(".saw canvas").is_displayed(), "the pixels")
    assert b'name="show_input"\r\n\r\ntrue' in scripted.worker.bodies[-1]
    drawn = browser.script(
        "const {data, width} = document.querySelector('.saw canvas').getContext('2d').getImageData(0, 0, 28, 28);"
        "return [...data].filter((_, at) => at % 4 === 0)"
    )
    assert bytes(drawn) == pixels
    assert browser.find(".saw figcaption").text == "What the model looks at: 28 × 28 pixels"


def test_what_a_model_of_digits_looked_at_is_the_digit_white_on_black(balancer, browse, picture):
    browser = browse(balancer.url)
    browser.find("#image").send_keys(picture(7))
    browser.label("7")
    tones = browser.script(
        "const ink = document.querySelector('.saw canvas').getContext('2d');"
        "return [...ink.getImageData(0, 0, 28, 28).data].filter((_, at) => at % 4 === 0)"
    )
    assert tones[0] == 0 and max(tones) > 200 and 40 < sum(tone > 100 for tone in tones) < 250


def test_of_a_photo_that_is_no_square_the_part_that_counts_is_shown(scripted, browse, tmp_path):
    wide = tmp_path / "wide.png"
    wide.write_bytes(encode(digit(3).resize((400, 200))))
    browser = browse(scripted.url)
    browser.find("#image").send_keys(str(wide))
    browser.until(lambda: browser.find(".saw canvas").is_displayed(), "the part")
    assert browser.script("return document.querySelector('.saw canvas').width") == 224


def test_a_copied_command_gives_the_answer_again(balancer, browse, picture, tmp_path):
    browser = browse(balancer.url)
    browser.until(lambda: browser.all("#servers option[value='2']"), "a choice of workers")
    browser.click("#servers option[value='2']")
    browser.find("#image").send_keys(picture(3, "it's three.png"))
    browser.label("3")
    browser.script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")

    def copied(kind):
        browser.click(f"[data-copy={kind}]")
        return browser.until(lambda: browser.script("const text = window.copied; window.copied = null; return text"), kind)

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(run("bash", "-c", copied("curl")))["label"] == "3"
    assert run(sys.executable, "-c", copied("python")).strip() == "3"
    assert json.loads(copied("json"))["label"] == "3"
    link = copied("link")
    browser = browse(link)
    browser.until(lambda: browser.script("return document.querySelector('#servers').value") == "2", f"the choice of {link}")


def test_an_answer_is_printed_without_what_is_operated(scripted, browse, picture):
    browser = browse(scripted.url)
    browser.find("#image").send_keys(picture(3))
    browser.label("tiger cat")
    browser.command("Emulation.setEmulatedMedia", media="print")
    shown = {part: browser.find(part).is_displayed() for part in ("#form", ".tools-row", ".address", "#answer .label", ".bars", ".facts")}
    assert [part for part, is_shown in shown.items() if is_shown] == ["#answer .label", ".bars", ".facts"]


def test_the_focus_stays_where_an_answer_takes_the_place_of_what_had_it(scripted, browse, picture):
    scripted.worker.answer = (422, {"error": "it cannot be read"})
    browser = browse(scripted.url)
    browser.find("#image").send_keys(picture(3))
    browser.text("#failure strong", "We cannot read that picture")
    browser.script("document.querySelector('#failure').id = 'old'")
    browser.find("#retry").send_keys(Keys.ENTER)
    browser.text("#failure strong")
    assert browser.focused() == "retry"
    scripted.worker.answer = prediction("tiger cat")
    browser.find("#retry").send_keys(Keys.ENTER)
    browser.label("tiger cat")
    assert "label" in browser.script("return document.activeElement.className")


def test_labels_are_marked_as_english_on_a_page_in_german(scripted, browse, picture):
    browser = browse(f"{scripted.url}/?lang=de")
    browser.find("#image").send_keys(picture(3))
    browser.label("tiger cat")
    for part in ("#answer .label", ".bars .bar-name", "#recent-list b"):
        assert browser.find(part).get_attribute("lang") == "en", part


def test_the_later_choice_is_what_is_shown_however_long_the_first_takes_to_be_made_fit(scripted, browse, picture):
    browser = browse(scripted.url)
    # Decoding waits until `letGo` is called.
    browser.script(
        "const decode = HTMLImageElement.prototype.decode;"
        "const gate = new Promise((resolve) => { window.letGo = resolve; });"
        "HTMLImageElement.prototype.decode = async function () { await gate; return decode.call(this); };"
    )
    drop = """
        const data = new DataTransfer();
        data.items.add(new File(['<svg xmlns="http://www.w3.org/2000/svg" width="80" height="80"/>'], "slow.svg", {type: "image/svg+xml"}));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    """
    browser.script(drop)
    assert browser.find("#progress").is_displayed() and browser.find("#cancel").is_displayed()
    browser.find("#image").send_keys(picture(3, "later.png"))
    browser.label("tiger cat")
    browser.driver.execute_async_script("const done = arguments[0]; letGo(); setTimeout(() => requestAnimationFrame(done), 100)")
    assert browser.find("#preview").get_attribute("alt").endswith("later.png")
    assert len(browser.all("#recent-list li")) == 1


def test_several_pictures_are_spread_and_a_cancelled_rest_is_said_to_be(scripted, browse, picture):
    worker = scripted.worker
    worker.most = 0
    browser = browse(scripted.url)
    worker.gate.clear()
    try:
        browser.find("#image").send_keys("\n".join(picture(3, f"{n}.png") for n in range(6)))
        eventually(lambda: worker.now == 4, 20, "four at a time")
        browser.click("#cancel")
        browser.until(lambda: browser.find("#batch tbody tr:last-child td").text == "Cancelled.", "the rest")
        assert not browser.find("#progress").is_displayed()
    finally:
        worker.gate.set()
    assert worker.most == 4
    browser.find("#image").send_keys("\n".join(picture(3, f"{n}.png") for n in range(2)))
    browser.text("#batch-text", "2 of 2 pictures classified.")
    browser.until(lambda: not browser.find("#progress").is_displayed(), "the end")


def test_the_pen_has_a_width_and_all_can_be_wiped(balancer, browse):
    browser = browse(f"{balancer.url}/?mode=draw")
    inked = (
        "const pad = document.querySelector('#pad');"
        "return pad.getContext('2d').getImageData(0, 0, pad.width, pad.height).data.filter((tone, at) => at % 4 === 0 && tone < 128).length"
    )

    def stroke():
        ActionChains(browser.driver).move_to_element_with_offset(browser.find("#pad"), -50, 0).click_and_hold().move_by_offset(100, 0).release().perform()
        return browser.script(inked)

    browser.script("const pen = document.querySelector('#pen'); pen.value = 8; pen.dispatchEvent(new Event('input'))")
    thin = stroke()
    browser.click("#clear")
    assert browser.script(inked) == 0 and browser.find("#reading").text == ""
    browser.script("const pen = document.querySelector('#pen'); pen.value = 32; pen.dispatchEvent(new Event('input'))")
    assert stroke() > 2 * thin > 0


def test_what_is_drawn_is_said_again_only_when_it_is_read_differently(balancer, browse):
    browser = browse(balancer.url)
    browser.click(DRAWN)
    draw_seven(browser)
    browser.label("7")
    assert browser.text("#live").startswith("It looks like 7")
    browser.script(
        "window.said = [];"
        "new MutationObserver(() => said.push(document.querySelector('#live').textContent)).observe(document.querySelector('#live'), {childList: true})"
    )
    # Read once more, with the same result.
    browser.script("document.querySelector('#reading').textContent = ''")
    browser.click("#go")
    browser.until(lambda: browser.find("#reading").text.startswith("7"), "another answer")
    assert browser.script("return said") == []
