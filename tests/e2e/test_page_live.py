"""A page that stays open: the camera, and a fleet or a balancer that comes and goes."""

import pytest
import requests

from fleet import eventually
from pictures import digit, encode
from scripted import ScriptedWorker, prediction


@pytest.fixture
def scripted(start):
    """A worker that answers as a test says, with a balancer in front of it."""
    worker = ScriptedWorker()
    worker.flags = ["--admin", "127.0.0.1:0", "--worker", f"worker1={worker.address}", "--max-in-flight", "16"]
    worker.balancer = start("balancer", "--listen", "127.0.0.1:0", *worker.flags)
    yield worker
    worker.gate.set()
    if worker.balancer.process.poll() is None:
        worker.balancer.stop()
    worker.shutdown()


# When each picture was sent.
SENT = "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/submit')).map((one) => one.startTime)"


def open_with_camera(browse, scripted):
    browser = browse(scripted.balancer.url)
    browser.script("performance.setResourceTimingBufferSize(100_000)")
    browser.text("#pill", "1 worker")
    browser.click("#camera")
    return browser


def test_the_camera_is_looked_at_one_frame_at_a_time_until_it_is_stopped(scripted, browse):
    browser = open_with_camera(browse, scripted)
    eventually(lambda: len(scripted.bodies) > 5, 30, "frames")
    browser.label("tiger cat")
    assert scripted.most == 1
    assert not browser.all("#answer .tools-row button"), "what changes all the time cannot be operated"
    # The answer to a frame that is in flight when the camera is stopped is not shown.
    scripted.gate.clear()
    eventually(lambda: scripted.now == 1, 20, "a frame on its way")
    scripted.answer = prediction("late frame")
    browser.click("#camera")
    assert not browser.find("#camera-view").is_displayed()
    before = len(browser.script(SENT))
    scripted.gate.set()
    browser.until(lambda: len(browser.script(SENT)) > before, "its answer")
    browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert browser.label() == "tiger cat"
    count = len(scripted.bodies)
    scripted.answer = prediction("umbrella")
    browser.click("[data-sample=umbrella]")
    browser.label("umbrella")
    assert len(scripted.bodies) == count + 1, "no frame any more"


def test_a_fleet_that_cannot_answer_the_camera_is_not_asked_without_a_pause(scripted, browse):
    scripted.answer = (422, {"error": "no digit found"})
    browser = open_with_camera(browse, scripted)
    # That no digit was found is an answer.
    browser.text("#failure strong", "No digit found")
    scripted.answer = (400, {"error": "not today"})
    browser.text("#failure strong", "That request cannot be answered")
    known = len(browser.script(SENT))
    browser.until(lambda: len(browser.script(SENT)) >= known + 2, "two more")
    last, latest = browser.script(SENT)[-2:]
    assert latest - last > 900
    scripted.answer = prediction("tiger cat")
    browser.label("tiger cat")


def test_a_camera_that_is_allowed_when_it_is_not_wanted_any_more_is_switched_off(scripted, browse):
    browser = browse(scripted.balancer.url)
    browser.until(lambda: browser.find("[data-mode=draw]").is_displayed(), "the tab")
    browser.script(
        """
        const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => {
          await new Promise((resolve) => { window.allow = resolve; });
          window.given = await real(wanted);
          return window.given;
        };
        """
    )
    browser.click("#camera")
    browser.until(lambda: browser.script("return Boolean(window.allow)"), "the question")
    browser.click("[data-mode=draw]")
    browser.script("allow()")
    browser.until(lambda: browser.script("return window.given?.getTracks().every((track) => track.readyState === 'ended')"), "it is off")


def test_a_page_says_when_the_balancer_is_gone_and_when_it_is_back(scripted, start, browse):
    address = scripted.balancer.address
    browser = browse(scripted.balancer.url)
    browser.text("#pill", "1 worker")
    scripted.balancer.stop()
    browser.text("#pill", "no connection to the balancer")
    scripted.balancer = start("balancer", "--listen", address, *scripted.flags)
    browser.text("#pill", "1 worker")


def test_the_picture_of_the_fleet_and_the_tallies_are_those_of_the_real_workers(balancer, browse, picture):
    browser = browse(balancer.url)
    boxes = "return [...document.querySelectorAll('.flow rect[data-name]')].map((box) => box.dataset.name)"
    browser.until(lambda: browser.script(boxes) == ["worker1", "worker2", "worker3", "worker4"], "a box for each")
    answer = requests.post(f"{balancer.url}/submit", files={"image": encode(digit(3))}, timeout=30)
    endpoint = answer.headers["x-imagefleet-endpoint"]
    bars = (
        "return Object.fromEntries([...document.querySelectorAll('#workers li')].map((row) =>"
        " [row.dataset.name, row.querySelector('rect').getAttribute('width')]))"
    )
    browser.until(lambda: browser.script(bars)[endpoint] == "100%", "its bar")
    assert sum(width == "0%" for width in browser.script(bars).values()) == 3
    lines = browser.script("return [...document.querySelectorAll('#workers line')].map((line) => line.getAttribute('x1'))")
    assert lines == ["25%"] * 4


def test_a_file_that_is_dragged_over_the_page_is_awaited(balancer, browse):
    browser = browse(balancer.url)
    over = """
        const data = new DataTransfer();
        data.items.add(new File(["x"], "a.png", {type: "image/png"}));
        const event = new DragEvent(arguments[0], {dataTransfer: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
        return [event.defaultPrevented, document.body.classList.contains("dragging")];
    """
    assert browser.script(over, "dragover") == [True, True]
    assert browser.script(over, "dragleave")[1] is False
