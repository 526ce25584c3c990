"""The operator's view of the fleet in a real browser, and in a terminal."""

import socket
import subprocess

import pytest
import requests
from selenium.webdriver.support.ui import Select

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


def choose(browser, policy):
    Select(browser.find("#policy")).select_by_visible_text(policy)


# Timers run twenty times as fast. `edit` may change the balancer's response; a response waits for the promise `held`.
HURRIED = """
    const [real, later] = [window.fetch, window.setTimeout];
    window.setTimeout = (work, pause) => later(work, pause / 20);
    window.told = window.waiting = 0;
    window.fetch = async (address, how) => {
      const answer = await real(address, how);
      const fleet = await answer.json();
      if (how.method !== "POST") {
        window.waiting += 1;
        await window.held;
        window.told += 1;
      }
      window.edit?.(fleet);
      return { ok: answer.ok, status: answer.status, json: async () => fleet };
    };
"""


@pytest.fixture
def lone(start, browse):
    """The view of a balancer that has never heard from its one worker: balancer, browser, and a wait for an update."""
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", "a=127.0.0.1:9", "--probe-path", "")
    balancer.admin = f"http://{balancer.wait_for('admin on (?:http://)?(.*)')}"
    browser = browse("about:blank")
    script = browser.command("Page.addScriptToEvaluateOnNewDocument", source=HURRIED)
    browser = browse(f"{balancer.admin}/fleet")

    def see():
        # The second is requested once the first is shown.
        before = browser.script("return window.told")
        browser.until(lambda: browser.script("return window.told") >= before + 2, "what the balancer tells")

    see()
    yield balancer, browser, see
    browser.command("Page.removeScriptToEvaluateOnNewDocument", **script)
    balancer.stop()


def test_a_policy_that_was_chosen_stays_chosen_until_it_is_set(lone):
    balancer, browser, see = lone
    assert not browser.find("#in-use").is_displayed()
    choose(browser, "weighted")
    browser.script("document.activeElement.blur()")
    see()
    policy = "return document.querySelector('#policy').value"
    assert browser.script(policy) == "weighted"
    assert browser.find("#in-use").text == "in use: random"
    # Meanwhile another operator sets a policy, too.
    requests.post(f"{balancer.admin}/fleet/policy?name=p2c", timeout=10).raise_for_status()
    browser.text("#in-use", "in use: p2c")
    assert browser.script(policy) == "weighted"
    browser.click("#policy-form button")
    browser.until(lambda: not browser.find("#in-use").is_displayed(), "that it is in use")
    assert told(balancer)["policy"] == "weighted"
    # If nothing was chosen, the field follows the fleet.
    requests.post(f"{balancer.admin}/fleet/policy?name=hash", timeout=10).raise_for_status()
    browser.until(lambda: browser.script(policy) == "hash", "the other operator's policy")


def test_what_is_refused_stays_on_the_page_until_the_next_order(lone):
    _, browser, see = lone
    browser.script(
        "const button = document.querySelector('[data-verb=more]');"
        "button.form.setAttribute('action', 'fleet/nobody/weight?value=2'); button.click()"
    )
    browser.until(lambda: "nobody" in browser.find("#problem").text, "what is wrong")
    see()
    assert browser.find("#problem").is_displayed() and not browser.find("#stale").is_displayed()
    browser.click("[data-verb=more]")
    browser.until(lambda: not browser.find("#problem").is_displayed(), "that all is well")


def test_orders_that_follow_each_other_quickly_are_each_made_of_the_last(lone):
    balancer, browser, _ = lone
    browser.script("const more = document.querySelector('[data-verb=more]'); more.click(); more.click(); more.click()")
    eventually(lambda: told(balancer)["endpoints"][0]["weight"] == 4, 20, "three more than one")


def test_the_second_half_of_a_double_click_takes_nothing_back(lone):
    balancer, browser, see = lone
    browser.click("[data-verb=drain]")
    browser.until(lambda: "Undrain" in browser.find("[data-verb=drain]").text, "that it is drained")
    second = "new MouseEvent('click', {detail: 2, bubbles: true, cancelable: true})"
    browser.script(f"document.querySelector('[data-verb=drain]').dispatchEvent({second})")
    see()
    assert told(balancer)["endpoints"][0]["is_drained"]
    browser.click("[data-verb=drain]")
    eventually(lambda: not told(balancer)["endpoints"][0]["is_drained"], 20, "that a click of its own counts")


def test_an_answer_that_was_overtaken_is_not_shown(lone):
    _, browser, _ = lone
    browser.script("window.waiting = 0; window.held = new Promise((resolve) => { window.letGo = resolve; })")
    browser.until(lambda: browser.script("return window.waiting") == 1, "a question whose answer waits")
    browser.click("[data-verb=drain]")
    browser.until(lambda: "drained" in browser.find("[data-cell=state]").text, "that it is drained")
    browser.driver.execute_async_script(
        "const done = arguments[0]; window.held = null; letGo(); requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    assert "drained" in browser.find("[data-cell=state]").text


def test_endpoints_come_and_go_without_the_page_being_loaded_again(lone):
    _, browser, _ = lone
    browser.script("window.mark = 1; window.edit = (fleet) => { fleet.endpoints = []; }")
    browser.text("#no-endpoint", "There is no endpoint.")
    assert not browser.all("#endpoints tbody tr")
    browser.script("window.edit = (fleet) => { fleet.endpoints[0].name = 'late/one'; fleet.endpoints.push({...fleet.endpoints[0], name: 'b'}); }")
    late = browser.until(lambda: row(browser, "late/one"), "the endpoint")
    assert not browser.find("#no-endpoint").is_displayed() and browser.script("return window.mark") == 1
    assert browser.script("return [...arguments[0].querySelector('th').childNodes].map((part) => part.textContent)", late)[:2] == ["late/one", "127.0.0.1:9"]
    assert late.find_element("css selector", "[data-verb=more]").get_attribute("aria-label") == "More weight: late/one"
    assert late.find_element("css selector", "[data-verb=drain]").get_attribute("textContent") == "Drain late/one"
    # A row that is removed while it has the focus passes it to the field above.
    browser.script("document.querySelector('[data-endpoint=b] [data-verb=more]').focus(); window.edit = (fleet) => { fleet.endpoints.push({...fleet.endpoints[0], name: 'c'}); }")
    browser.until(lambda: browser.focused() == "find", "the focus")


def test_a_view_without_a_balancer_says_that_its_figures_are_old(lone):
    balancer, browser, _ = lone
    balancer.stop()
    browser.until(lambda: browser.find("#stale").is_displayed(), "that they are old")
    assert browser.find("#pill").text == "no connection to the balancer"
    assert "pill-bad" in browser.find("#pill").get_attribute("class")


def test_the_view_follows_the_fleet_without_losing_focus_or_place(fleet, browse):
    browser = browse(f"{fleet.admin}/fleet", height=300)
    assert not browser.all("meta[http-equiv=refresh]")
    browser.script("window.mark = 1; document.querySelector('[data-verb=more]').focus(); scrollTo(0, 120)")
    place = browser.script("return scrollY")

    def rate():
        answer = requests.post(f"{fleet.url}/submit", files={"image": encode(digit(3))}, timeout=30)
        assert answer.status_code == 200
        # The rate covers the last few seconds: requests continue until it is seen.
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
    choose(browser, "weighted")
    browser.click("#policy-form button")
    eventually(lambda: told(fleet)["policy"] == "weighted", 20, "the policy")
    browser.until(lambda: "(66.7 %)" in row(browser, "worker2").text, "the share to expect")


def test_without_scripts_the_verbs_are_forms_and_lead_back(fleet, browse):
    browser = browse(f"{fleet.admin}/fleet", javascript=False)
    row(browser, "worker1").find_element("css selector", "[data-verb=drain]").click()
    # The click may return before the browser has followed the answer.
    browser.until(lambda: "drained" in row(browser, "worker1").text, "the page with the drained worker")
    assert browser.driver.current_url == f"{fleet.admin}/fleet"
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
    # A name with a colon is part of a path like any other.
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
        # It may be back before the page is updated again.
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
