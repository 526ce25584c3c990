"""The files under deploy/ are what their readers understand, as far as that can be told without a cluster."""

import copy
import fnmatch
import functools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import requests
import yaml
from engine import skip_without_stacks
from fleet import ROOT, eventually
from models import copy_shipped

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
TOOLS = Path(sys.executable).parent
# What a cluster knows only after it has been installed, and whose schema is not at hand.
INSTALLED_LATER = {"Gateway", "HTTPRoute", "HealthCheckPolicy"}
OLDEST, NEWEST = "1.30", "1.37"


def output(*command, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def rendered(overlay):
    """The objects of an overlay; shared, not to be changed."""
    text = output(TOOLS / "kubectl", "kustomize", KUBERNETES / "overlays" / overlay)
    return [thing for thing in yaml.safe_load_all(text) if thing]


def strictly(thing, version):
    """Fails on unknown fields, on kinds and versions that this Kubernetes does not have, on wrong types."""
    if thing["kind"] not in INSTALLED_LATER:
        kubernetes_validate.validate(thing, version, strict=True)


def pods(things):
    """Name and specification of each pod that the objects make."""
    return {
        thing["metadata"]["name"]: thing["spec"]["template"]["spec"]
        for thing in things
        if thing["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet")
    }


def test_every_yaml_file_is_clean():
    output(TOOLS / "yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yaml", DEPLOY)


def test_the_dockerfile_is_clean():
    output(TOOLS / "hadolint", DEPLOY / "Dockerfile")


def is_in_the_build_context(path):
    """What .dockerignore says, whose last pattern that fits decides."""
    kept = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            is_exception = pattern.startswith("!")
            if any(fnmatch.fnmatchcase(str(part), pattern.lstrip("!")) for part in [path, *path.parents]):
                kept = is_exception
    return kept


def test_the_build_context_has_each_crate_of_the_workspace():
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    assert [name for name in members if not is_in_the_build_context(Path(name))] == []
    assert not is_in_the_build_context(Path("tests/e2e")), "the patterns are read"


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("compose*.yaml")))
def test_compose_files_follow_the_compose_specification(name):
    output(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / name)


def test_the_compose_project_is_understood_by_the_compose_of_this_machine(tmp_path):
    if not shutil.which("docker-compose"):
        pytest.skip("SKIPPED: no docker-compose here")
    token = tmp_path / "token"
    token.write_text("secret")
    profiles = ["--profile", "monitoring", "--profile", "load-test"]
    command = ["docker-compose", *profiles, "config"]
    text = output(*command, cwd=DEPLOY, env={"PATH": "/usr/bin:/bin", "ADMIN_TOKEN_FILE": str(token)})
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"balancer", "worker", "prometheus", "grafana", "locust", "locust-worker"}


def test_the_same_compose_file_is_understood_as_a_stack():
    if not shutil.which("docker"):
        pytest.skip("SKIPPED: no docker here")
    skip_without_stacks()
    for files in [["compose.yaml"], ["compose.yaml", "compose.host-ports.yaml"]]:
        output("docker", "stack", "config", *(f"--compose-file={DEPLOY / name}" for name in files))


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_valid_to_the_letter(overlay, version):
    things = rendered(overlay)
    assert len(things) > 10
    for thing in things:
        strictly(thing, version)


def test_misspelt_fields_and_removed_versions_are_found():
    things = {thing["kind"]: thing for thing in rendered("minikube")}
    misspelt = copy.deepcopy(things["Deployment"])
    misspelt["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    removed = {**things["HorizontalPodAutoscaler"], "apiVersion": "autoscaling/v2beta2"}
    wrong = copy.deepcopy(things["Service"])
    wrong["spec"]["ports"][0]["port"] = "http"
    for thing in [misspelt, wrong]:
        with pytest.raises(kubernetes_validate.ValidationError):
            strictly(thing, NEWEST)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        strictly(removed, NEWEST)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_meet_the_restricted_profile_and_say_what_they_need(overlay):
    """As the namespace demands: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    for name, pod in pods(rendered(overlay)).items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0, name
        assert security["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not any(pod.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")), name
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "secret", "projected"}, name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"], name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"]["cpu"] and container["resources"]["limits"]["memory"], name
            assert not any("hostPort" in port for port in container.get("ports", [])), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_pods_finds_some_and_what_is_mounted_is_there(overlay):
    things = rendered(overlay)
    labels = [thing["spec"]["template"]["metadata"]["labels"] for thing in things if thing["kind"] == "Deployment"]
    for thing in things:
        selector = thing.get("spec", {}).get("selector", {})
        if thing["kind"] in ("Service", "PodDisruptionBudget"):
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= found.items() for found in labels), thing["metadata"]["name"]
    made = {thing["metadata"]["name"] for thing in things if thing["kind"] == "ConfigMap"}
    volumes = [volume for pod in pods(things).values() for volume in pod.get("volumes", [])]
    assert {volume["configMap"]["name"] for volume in volumes if "configMap" in volume} <= made


def test_the_service_stays_up_while_it_is_changed():
    things = rendered("gke")
    by_name = {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}
    for name in ("balancer", "worker"):
        deployment = by_name["Deployment", name]["spec"]
        assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert ("PodDisruptionBudget", name) in by_name
        pod = deployment["template"]["spec"]
        container = pod["containers"][0]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        # No requests are sent to it any more when it stops, and then it has its thirty seconds.
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] + 30 < pod["terminationGracePeriodSeconds"]
        assert {spread["topologyKey"] for spread in pod["topologySpreadConstraints"]} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
    assert "replicas" not in by_name["Deployment", "worker"]["spec"], "autoscaling says how many"
    assert by_name["Service", "worker"]["spec"]["clusterIP"] == "None"


def asked_for():
    """The names in the expressions of the dashboard, the alerts and the adapter of autoscaling."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "imagefleet.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    [group] = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    expressions += [rule["expr"] for rule in group["rules"]]
    expressions += [thing["data"]["config.yaml"] for thing in rendered("monitoring") if "config.yaml" in thing.get("data", {})]
    return set(re.findall(r"\b(?:balancer|worker)_[a-z_]+", " ".join(expressions)))


def test_dashboard_alerts_and_autoscaling_ask_for_metrics_that_there_are(start, tmp_path):
    models = copy_shipped(tmp_path / "models", "mnist")
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.toml").write_text("no manifest")
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", models)
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", worker.address)
    admin = balancer.wait_for(r"admin on (\S+)")
    picture = (ROOT / "docs" / "seven.png").read_bytes()
    eventually(lambda: requests.post(f"{balancer.url}/submit", data=picture, timeout=30).ok, 60, "an answer")
    text = requests.get(f"{admin}/metrics", timeout=10).text + requests.get(f"{worker.url}/metrics", timeout=10).text
    # Counters of what has not happened yet have a type and no value.
    there = set(re.findall(r"^(\w+)", text, re.MULTILINE))
    there |= {f"{name}_total" for name in re.findall(r"^# TYPE (\w+) counter", text, re.MULTILINE)}
    assert asked_for() <= there
