"""Formats that others build on are stable: JSON that the programs send or write conforms to the published schemas."""

import json
import re
import subprocess

import jsonschema
import pytest
import requests
from conftest import TARGET
from fleet import ROOT, eventually

SCHEMAS = sorted((ROOT / "docs").glob("*.schema.json"))


def schema(name):
    return json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())


def closed(part):
    """The same schema, closed to members that it does not name: a new one has to be added to it."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: closed(value) for key, value in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


def check(value, name):
    jsonschema.Draft202012Validator(closed(schema(name))).validate(value)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_schema_is_one_and_a_document_leads_to_it(path):
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))
    assert any(f"({path.name})" in page.read_text() for page in (ROOT / "docs").glob("*.md")), path.name


@pytest.fixture(scope="module")
def following(start, tmp_path_factory):
    """A balancer that starts workers by itself and knows one that is not there, after it has evaluated its load."""
    log = tmp_path_factory.mktemp("log") / "access.log"
    own = ("--spawn", "1..2", "--models", "models", "--worker", "away=127.0.0.1:9", "--access-log", log)
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *own)
    balancer.access_log = log
    balancer.admin = balancer.wait_for(r"admin on (\S+)")
    fleet = lambda: requests.get(f"{balancer.admin}/fleet.json", timeout=10).json()  # noqa: E731
    eventually(lambda: (fleet()["elasticity"] or {}).get("reason"), 60, "it has decided how many workers there are")
    eventually(lambda: any(one["models"] for one in fleet()["endpoints"]), 60, "a worker has told its models")
    eventually(lambda: any((one["probe"] or {}).get("fault") for one in fleet()["endpoints"]), 60, "a probe has failed")
    return balancer


def test_the_fleet_is_what_its_schema_says(following):
    for query in ("", "?history=1"):
        fleet = requests.get(f"{following.admin}/fleet.json{query}", timeout=10).json()
        check(fleet, "fleet")
        assert all(("history" in one) == bool(query) for one in fleet["endpoints"])


def test_a_fleet_of_fixed_size_is_what_its_schema_says(balancer):
    check(requests.get(f"{balancer.admin}/fleet.json", timeout=10).json(), "fleet")


def test_the_status_of_the_page_is_what_its_schema_says(following):
    check(requests.get(f"{following.url}/status.json", timeout=10).json(), "status")
    with requests.get(f"{following.url}/status/events", timeout=10, stream=True) as events:
        line = next(line for line in events.iter_lines() if line.startswith(b"data:"))
    check(json.loads(line[5:]), "status")


def test_an_answer_about_a_picture_is_what_its_schema_says(balancer):
    for query in ("", "&show_input=true&top_k=10"):
        with open(ROOT / "docs" / "seven.png", "rb") as file:
            answer = requests.post(
                f"{balancer.url}/submit?model=mnist{query}", files={"image": file}, headers={"Accept": "application/json"}, timeout=30
            )
        assert answer.ok, answer.text
        check(answer.json(), "answer")
        assert ("input" in answer.json()) == bool(query)


def test_a_line_of_the_access_log_has_the_keys_that_the_document_lists(following):
    assert requests.get(f"{following.url}/v1/models/mnist", headers={"User-Agent": "a test"}, timeout=10).ok
    page = (ROOT / "docs" / "balancer.md").read_text()
    table = page[page.index("Requests go to `--access-log FILE`") : page.index("`combined` is the format")]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    lines = eventually(lambda: [line for line in following.access_log.read_text().splitlines() if "a test" in line], 20, "a line")
    assert sorted(json.loads(lines[0])) == sorted(listed)


def test_a_results_folder_is_what_its_schemas_say(balancer, tmp_path):
    command = [TARGET / "client", "load", "--target", balancer.url, "--rate", "20", "--warm-up", "0s", "--duration", "1s"]
    done = subprocess.run([*map(str, command), "--out", tmp_path / "run"], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, 3), done.stderr
    check(json.loads((tmp_path / "run" / "manifest.json").read_text()), "manifest")
    check(json.loads((tmp_path / "run" / "summary.json").read_text()), "load-summary")


def test_a_member_that_no_schema_names_is_found():
    status = {"ready": True, "models": [], "tables": [], "default_model": None}
    check(status, "status")
    for broken in ({**status, "more": 1}, {**status, "ready": "yes"}, {key: status[key] for key in ("ready", "models")}):
        with pytest.raises(jsonschema.ValidationError):
            check(broken, "status")
