"""The operator's view of the fleet in a real browser, and in a terminal."""

import socket
import subprocess

import pytest
import requests

from conftest import TARGET
from fleet import Threads, eventually
from pictures import digit, encode


@pytest.fixture
def fleet(start_fleet):
    balancer = start_fleet(2)
    yield balancer
    balancer.stop()


def told(balancer, history=False):
    return requests.get(f"{balancer.admin}/fleet.json{'?history=1' if history else ''}", timeout=10).json()


def row(browser, name):
    return browser.find(f"tr[data-endpoint='{name}']")


def test_the_view_follows_the_fleet_without_losing_focus_or_place(fleet, browse):
    browser = browse(f"{fleet.admin}/fleet", height=300)
    assert not browser.all("meta[http-equiv=refresh]")
    browser.script("window.mark = 1; document.querySelector('[data-verb=more]').focus(); scrollTo(0, 120)")
    place = browser.script("return scrollY")

    def rate():
        answer = requests.post(f"{fleet.url}/submit", files={"image": encode(digit(3))}, timeout=30)
        assert answer.status_code == 200
        # It is that of the last seconds: requests go on until it is seen.
        return float(browser.find("[data-figure=rate]").text)

    browser.until(lambda: rate() > 0, "the rate")
    browser.until(lambda: browser.find(".curve polyline"), "curves")
    assert browser.script("return window.mark") == 1, "it was not loaded again"
    assert browser.script("return document.activeElement.dataset.verb") == "more"
    assert browser.script("return scrollY") == place
    assert not browser.complaints()


def test_an_endpoint_is_drained_weighed_and_taken_back_with_buttons(fleet, browse):
    browser = browse(f"{fleet.admin}/fleet")
    row(browser, "worker1").find_element("css selector", "[data-verb=drain]").click()
    browser.until(lambda: "drained" in row(browser, "worker1").text, "that it is drained")
    assert "an operator drained it" in row(browser, "worker1").text
    assert told(fleet)["endpoints"][0]["is_drained"]
    browser.until(lambda: "worker1" in browser.find("#live").text, "the announcement")
    row(browser, "worker1").find_element("css selector", "[data-verb=drain]").click()
    eventually(lambda: told(fleet)["endpoints"][0]["state"] == "available", 20, "the endpoint is back")
    row(browser, "worker2").find_element("css selector", "[data-verb=more]").click()
    browser.until(lambda: row(browser, "worker2").find_element("css selector", "[data-cell=weight]").text == "2", "its weight")
    # At once: between the two the page may show again what is in use.
    choose = "document.querySelector('#policy').value = 'weighted'"
    browser.script(f"{choose}; document.querySelector('#policy-form button').click()")
    eventually(lambda: told(fleet)["policy"] == "weighted", 20, "the policy")
    browser.until(lambda: "(66.7 %)" in row(browser, "worker2").text, "the share to expect")


def test_without_scripts_the_verbs_are_forms_and_lead_back(fleet, browse):
    browser = browse(f"{fleet.admin}/fleet", javascript=False)
    row(browser, "worker1").find_element("css selector", "[data-verb=drain]").click()
    assert browser.driver.current_url == f"{fleet.admin}/fleet"
    assert "drained" in row(browser, "worker1").text
    assert told(fleet)["endpoints"][0]["is_drained"]


def test_the_view_says_why_an_endpoint_takes_no_requests(start, browse):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    # The port is closed now.
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", f"a:b%c={address}")
    balancer.admin = f"http://{balancer.wait_for('admin on (?:http://)?(.*)')}"
    browser = browse(f"{balancer.admin}/fleet")
    browser.until(lambda: "connection refused" in browser.find("#endpoints").text, "the reason")
    probe = told(balancer)["endpoints"][0]["probe"]
    assert probe["fault"] == "connection refused" and probe["seconds_ago"] < 60
    # A name with a colon is a part of an address like any other.
    browser.click("[data-verb=drain]")
    eventually(lambda: told(balancer)["endpoints"][0]["is_drained"], 20, "the endpoint is drained")
    balancer.stop()


def test_two_hundred_endpoints_are_shown_in_pages_and_found_by_name(start, browse, tmp_path):
    workers = tmp_path / "workers"
    workers.write_text("".join(f"w{n:03}=127.0.0.1:{20000 + n}\n" for n in range(200)))
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers-file", workers, "--probe-path", "")
    balancer.admin = f"http://{balancer.wait_for('admin on (?:http://)?(.*)')}"
    browser = browse(f"{balancer.admin}/fleet")
    browser.until(lambda: len(browser.all("tr[data-endpoint]")) == 50, "a page of them")
    assert browser.find("#page").text == "Page 1 of 4"
    browser.click("#next")
    browser.until(lambda: row(browser, "w050").is_displayed(), "the second page")
    browser.find("#find").send_keys("w17")
    browser.until(lambda: len(browser.all("tr[data-endpoint]")) == 10, "those that were looked for")
    balancer.stop()


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_every_column_can_be_reached_in_a_window_of_any_width(fleet, browse, width):
    browser = browse(f"{fleet.admin}/fleet", width=width, height=800)
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.script(
        "return [...document.querySelectorAll('#endpoints button, #endpoints [data-cell]')].every((e) => e.getBoundingClientRect().right <= innerWidth)"
    )


def is_gone(endpoint):
    return endpoint["state"] != "available" and "its process exited" in (endpoint["reason"] or "")


def test_a_worker_is_killed_with_a_button_and_no_request_fails(start_fleet, browse):
    balancer = start_fleet(2, "--lessons")
    browser = browse(f"{balancer.admin}/fleet")
    statuses = []

    def classify():
        while not work.ending.is_set():
            answer = requests.post(f"{balancer.url}/submit", files={"image": encode(digit(3))}, timeout=30)
            statuses.append(answer.status_code)

    work = Threads(2, classify)
    with work:
        eventually(lambda: len(statuses) > 10, 30, "requests on their way")
        row(browser, "worker1").find_element("css selector", "[data-verb=kill]").click()
        # It may be back before the page is told again.
        eventually(lambda: is_gone(told(balancer)["endpoints"][0]), 20, "the worker is gone, and why")
        eventually(lambda: told(balancer)["endpoints"][0]["state"] == "available", 60, "the worker is back")
    assert set(statuses) == {200}, statuses
    balancer.stop()


def test_no_worker_is_killed_where_no_lessons_are_given(fleet, browse):
    answer = requests.post(f"{fleet.admin}/fleet/worker1/kill", timeout=10)
    assert answer.status_code == 403 and "--lessons" in answer.json()["error"]
    assert not browse(f"{fleet.admin}/fleet").all("[data-verb=kill]")


def top(*arguments):
    return subprocess.run([TARGET / "balancer", "top", "--once", *arguments], capture_output=True, text=True, timeout=30)


def test_a_terminal_shows_the_fleet_too(fleet):
    requests.post(f"{fleet.admin}/fleet/worker2/drain", timeout=10).raise_for_status()
    done = top("--admin", fleet.admin.removeprefix("http://"))
    assert done.returncode == 0, done.stderr
    assert "1 of 2 endpoints available" in done.stdout
    drained, available = done.stdout.splitlines()[-2:]
    assert drained.startswith("worker2") and "drained" in drained and "an operator drained it" in drained
    assert available.startswith("worker1") and " available " in available


def test_a_terminal_says_why_it_shows_no_fleet(start_fleet, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef\n")
    balancer = start_fleet(1, "--admin-token-file", token)
    address = balancer.admin.removeprefix("http://")
    refused = top("--admin", address)
    assert refused.returncode == 1 and "operator's token" in refused.stderr
    told = top("--admin", address, "--admin-token-file", token)
    assert told.returncode == 0 and "worker1" in told.stdout, told.stderr
    balancer.stop()
    gone = top("--admin", address)
    assert gone.returncode == 1 and gone.stderr.startswith(f"balancer: no answer from {address}: ")
