"""Alerts, runbook and dashboard: what Prometheus itself makes of them, over a running fleet."""

import json
import re
import shutil
import subprocess
import time

import psutil
import pytest
import requests
import yaml

from fleet import ROOT, Threads, eventually
from models import copy_shipped
from pictures import digit, encode

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "imagefleet.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def alerts():
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def program(name, package="prometheus"):
    if not (path := shutil.which(name)):
        pytest.skip(f"SKIPPED: no {name} here (Debian: apt install {package})")
    return path


def promtool(*arguments):
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_understands_the_rules_and_every_configuration(tmp_path):
    assert f"{len(alerts())} rules found" in promtool("check", "rules", RULES)
    for name in ("prometheus.yml", "machines.yml"):
        text = (DEPLOY / "prometheus" / name).read_text()
        # The secret is at that path only in the container.
        (tmp_path / name).write_text(text.replace("/run/secrets/admin-token", str(RULES)))
        shutil.copy(RULES, tmp_path)
        promtool("check", "config", tmp_path / name)


def test_alerts_fire_when_they_should_and_not_otherwise():
    promtool("test", "rules", DEPLOY / "prometheus" / "rules_test.yml")


def test_every_alert_is_tested_both_ways():
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    is_silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == is_silent == set(alerts())


def test_every_alert_has_its_page_in_the_runbook():
    pages = ROOT / "docs" / "runbook"
    index = (pages / "README.md").read_text()
    for name, rule in alerts().items():
        url = rule["annotations"]["runbook_url"]
        assert url.endswith(f"/docs/runbook/{name}.md")
        assert (pages / f"{name}.md").read_text().startswith(f"# {name}\n")
        assert f"| [{name}]({name}.md) | {rule['labels']['severity']} |" in index
    assert {page.stem for page in pages.iterdir()} == {*alerts(), "README"}


@pytest.mark.parametrize("name", sorted(alerts()))
def test_a_page_wakes_somebody_and_a_ticket_does_not(name):
    config = DEPLOY / "prometheus" / "alertmanager.yml"
    amtool = program("amtool", "prometheus-alertmanager")
    subprocess.run([amtool, "check-config", config], check=True, capture_output=True)
    severity = alerts()[name]["labels"]["severity"]
    command = [amtool, "config", "routes", "test", f"--config.file={config}", f"alertname={name}", f"severity={severity}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert told == [{"page": "on-call", "ticket": "tickets"}[severity]]


def test_no_alert_is_kept_back_by_the_hour():
    """An alert that begins and ends while a route is muted is never sent.

    Alertmanager 0.23 of Ubuntu 22.04 does not know `time_intervals` either.
    """
    config = yaml.safe_load((DEPLOY / "prometheus" / "alertmanager.yml").read_text())
    routes = [config["route"], *config["route"]["routes"]]
    assert [key for part in [config, *routes] for key in part if "time_intervals" in key] == []


def test_alerts_that_keep_others_back_are_there():
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alertmanager.yml").read_text())["inhibit_rules"]
    matchers = [matcher for rule in rules for matcher in rule["source_matchers"] + rule["target_matchers"]]
    named = [name for matcher in matchers for name in re.search(r'"(.+)"', matcher)[1].split("|")]
    assert set(named) <= set(alerts())


def test_the_runbook_has_the_states_by_the_names_of_the_program():
    texts = json.loads((ROOT / "templates" / "texts.en.json").read_text())
    page = (ROOT / "docs" / "runbook" / "WorkerIsOut.md").read_text()
    named = re.findall(r"^- `(\w+)`", page, re.MULTILINE)
    named += re.findall(r"\bAll `(\w+)`", (ROOT / "docs" / "runbook" / "NoWorker.md").read_text())
    assert len(named) == 5 and set(named) <= set(texts["states"])


def test_links_of_the_runbook_lead_somewhere():
    for page in (ROOT / "docs" / "runbook").iterdir():
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_grafana_finds_its_datasource_and_its_dashboard():
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "imagefleet.yml").read_text())["providers"]
    compose = yaml.safe_load((DEPLOY / "compose.override.yaml").read_text())["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["volumes"]
    panels = DASHBOARD["panels"]
    used = [panel["datasource"]["uid"] for panel in panels]
    used += [target["datasource"]["uid"] for panel in panels for target in panel["targets"]]
    assert set(used) == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)


class Prometheus:
    """The test's own Prometheus, configured by machines.yml, which scrapes a balancer and its workers every second."""

    def __init__(self, folder, admin):
        config = (DEPLOY / "prometheus" / "machines.yml").read_text().replace("127.0.0.1:9900", admin)
        config = re.sub(r"_interval: \d+s", "_interval: 1s", config)
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(RULES, folder)
        self._log = folder / "stderr.log"
        command = [program("prometheus"), f"--config.file={folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:0"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log)
        # It does not print its port, so the kernel is asked.
        port = eventually(self._port, 30, "Prometheus listens")
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def _port(self):
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        connections = psutil.Process(self._process.pid).net_connections("tcp")
        return next((one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN), None)

    def ask(self, path, **parameters):
        answer = requests.get(f"{self._url}/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def values(self, expression):
        """The newest value of each series of an expression, without NaN."""
        values = [float(series["value"][1]) for series in self.ask("query", query=expression)["result"]]
        return [value for value in values if value == value]

    def close(self):
        self._process.terminate()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def prometheus(start, tmp_path_factory):
    """Watches a balancer and a worker that serve a client."""
    program("prometheus")
    models = copy_shipped(tmp_path_factory.mktemp("monitored") / "models", "mnist")
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", models)
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", worker.address)
    admin = balancer.wait_for(r"admin on http://(\S+)")
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), admin)
    picture = encode(digit(7))

    def ask():
        while not clients.ending.is_set():
            requests.post(f"{balancer.url}/submit", files={"image": picture}, timeout=30)
            time.sleep(0.05)

    with (clients := Threads(1, ask)):
        eventually(lambda: prometheus.values("sum(rate(balancer_requests_total[15s])) > 0"), 60, "figures of the fleet")
        yield prometheus
    prometheus.close()


@pytest.mark.parametrize("title, expression", QUERIES, ids=[f"{title}-{n}" for n, (title, _) in enumerate(QUERIES)])
def test_each_panel_shows_something_of_a_fleet_that_runs(prometheus, title, expression):
    asked = expression.replace("$__rate_interval", "15s")
    assert "$" not in asked, "a variable that only Grafana knows"
    assert eventually(lambda: prometheus.values(asked), 30, f"figures of {title}")


def test_no_alert_fires_in_a_fleet_that_is_well(prometheus):
    def rules():
        [group] = prometheus.ask("rules")["groups"]
        return group["rules"]

    eventually(lambda: all(rule["health"] == "ok" for rule in rules()), 30, "every rule is evaluated")
    assert {rule["name"] for rule in rules()} == set(alerts())
    firing = [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
    assert not firing


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_the_fleet(prometheus):
    components = DEPLOY / "kubernetes" / "components"
    things = yaml.safe_load_all((components / "monitoring" / "adapter.yaml").read_text())
    [config] = [thing["data"]["config.yaml"] for thing in things if thing["kind"] == "ConfigMap"]
    [rule] = yaml.safe_load(config)["rules"]
    scaler = yaml.safe_load((components / "queue-scaling" / "autoscaling.yaml").read_text())
    [wanted] = [metric["object"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Object"]
    assert wanted == rule["name"]["as"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'instance!=""').replace("<<.GroupBy>>", "job")
    assert "<<" not in query
    # One value for all balancers together, even without any worker.
    for asked in (query, query.replace("balancer_endpoint_queue", "balancer_endpoint_queue_of_none")):
        assert len(eventually(lambda asked=asked: prometheus.values(asked), 30, asked)) == 1
