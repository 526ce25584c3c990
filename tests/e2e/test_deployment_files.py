"""The files under deploy/ are valid for the tools that read them, as far as can be checked without a cluster."""

import copy
import fnmatch
import functools
import hashlib
import io
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import requests
import yaml
from engine import skip_without_stacks
from fleet import ROOT, eventually
from models import copy_shipped

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
# Overlays that bring the service itself; the others bring what runs beside it, whichever of these it came from.
WITH_THE_SERVICE = ["gke", "minikube"]
TOOLS = Path(sys.executable).parent
SCHEMAS = ROOT / "tests" / "schemas"
# Kinds that a cluster knows only after they have been installed: version, and schema of the specification.
INSTALLED_LATER = {
    "Gateway": ("gateway.networking.k8s.io/v1", "gateway"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproute"),
    "HealthCheckPolicy": ("networking.gke.io/v1", "healthcheckpolicy"),
}
OLDEST, NEWEST = "1.30", "1.37"


def output(*command, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def built(folder):
    """The objects of the overlay in a folder."""
    return [thing for thing in yaml.safe_load_all(output(TOOLS / "kubectl", "kustomize", folder)) if thing]


@functools.cache
def rendered(overlay):
    """The objects of one of the project's overlays; shared, so not to be modified."""
    return built(KUBERNETES / "overlays" / overlay)


def strictly(thing, version):
    """Fails on unknown fields, on kinds and versions that this Kubernetes does not have, on wrong types."""
    if thing["kind"] in INSTALLED_LATER:
        follows(thing, *INSTALLED_LATER[thing["kind"]])
    else:
        kubernetes_validate.validate(thing, version, strict=True)


def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def follows(thing, version, name):
    """Fails unless an object has this version and conforms to its schema, with no other fields."""
    envelope = {"apiVersion": {"const": version}, "kind": {}, "metadata": {"type": "object", "required": ["name"]}, "spec": schema(name)}
    whole = {"required": list(envelope), "properties": envelope, "additionalProperties": False}
    jsonschema.validate(thing, whole, jsonschema.Draft202012Validator)


def pods(things):
    """Name and specification of each pod that the objects create."""
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
    """Whether .dockerignore keeps a path; the last matching pattern decides."""
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


# The image of a tool, wherever one is named: `prom/prometheus:v3.5.0`, `locustio/locust:${LOCUST:-2.47.0}`.
TOOL = re.compile(r"\b((?:prom|grafana|locustio)/\w+):(?:\$\{\w+:-)?v?([\d.]+)")


def test_a_tool_has_one_version_wherever_it_is_named():
    found = {}
    for path in [*DEPLOY.glob("*.yaml"), *KUBERNETES.rglob("*.yaml")]:
        for name, version in TOOL.findall(path.read_text()):
            found.setdefault(name, set()).add(version)
    assert set(found) == {"prom/prometheus", "grafana/grafana", "locustio/locust"}
    [locust] = found["locustio/locust"]
    assert f"locust=={locust}\n" in (ROOT / "tests" / "e2e" / "requirements.txt").read_text()
    assert f"locust={locust}\n" in (ROOT / "tests" / "kubernetes" / "lab" / "build.sh").read_text()
    assert f"locust=={locust}\n" in (ROOT / "docs" / "docker.md").read_text()
    assert [name for name, versions in found.items() if len(versions) > 1] == []


def test_an_image_has_the_version_of_the_workspace_and_a_compiler_that_is_new_enough():
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG VERSION=(.+)$", dockerfile, re.MULTILINE)[1] == workspace["version"]

    def key(version):
        return [int(part) for part in version.split(".")]

    assert key(re.search(r"^ARG RUST=(.+)$", dockerfile, re.MULTILINE)[1]) >= key(workspace["rust-version"])[:2]


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


def test_what_starts_a_profile_names_its_services_and_leaves_the_others_as_they_are():
    profiles = {}
    for name, service in manifest("compose.override.yaml")["services"].items():
        [profile] = service["profiles"]
        profiles.setdefault(profile, set()).add(name)
    pages = [*(ROOT / "docs").rglob("*.md"), *DEPLOY.glob("*.yaml")]
    printed = [command for page in pages for command in re.findall(r"docker compose --profile (\S+ up\b[^`#\n]*)", page.read_text())]
    assert {command.split()[0] for command in printed} == set(profiles)
    for command in printed:
        profile, *words = command.split()
        assert "--no-recreate" in words, command
        assert profiles[profile] <= set(words), command


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def test_who_is_told_to_stop_has_the_time_that_it_gives_itself():
    for name, service in manifest("compose.yaml")["services"].items():
        reference = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
        own = seconds(re.search(r"^\| `--drain-timeout <TIME>` \| `\w+` \| (\w+) \|", reference, re.MULTILINE)[1])
        assert seconds(service["stop_grace_period"]) > own, name
    script = (DEPLOY / "replace-workers.sh").read_text()
    assert re.findall(r"docker stop --time (\d+) ", script) == [str(seconds(service["stop_grace_period"]))]
    # Grace periods: https://cloud.google.com/appengine/docs/flexible,
    # https://cloud.google.com/run/docs/container-contract
    assert seconds(manifest("appengine/app.yaml")["env_variables"]["BALANCER_DRAIN_TIMEOUT"]) < 30
    [container] = manifest("cloudrun/service.yaml")["spec"]["template"]["spec"]["containers"]
    [own] = [one["value"] for one in container["env"] if one["name"] == "BALANCER_DRAIN_TIMEOUT"]
    assert seconds(own) < 10


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
    assert len(things) > 5
    for thing in things:
        strictly(thing, version)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "tests" / "kubernetes").glob("*/kustomization.yaml")))
def test_the_laboratorys_overlays_are_valid_to_the_letter(folder):
    things = built(ROOT / "tests" / "kubernetes" / folder)
    assert any(thing["kind"] == "HorizontalPodAutoscaler" for thing in things)
    for thing in things:
        strictly(thing, NEWEST)


def identities(things):
    return {(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in things}


@pytest.mark.parametrize("overlay", sorted(set(OVERLAYS) - set(WITH_THE_SERVICE)))
def test_what_stands_beside_the_service_is_applied_and_deleted_without_touching_it(overlay):
    for service in WITH_THE_SERVICE:
        assert ("Deployment", "imagefleet", "worker") in identities(rendered(service)), service
        assert not identities(rendered(overlay)) & identities(rendered(service))


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


ALWAYS_THERE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "APIService"}


def test_an_overlay_of_ones_own_has_every_component_in_its_own_namespace(tmp_path):
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "elsewhere",
        "resources": [os.path.relpath(KUBERNETES / "overlays" / "gke", tmp_path)],
        "components": [os.path.relpath(KUBERNETES / "components" / name, tmp_path) for name in COMPONENTS if name != "gateway"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    things = built(tmp_path)
    by_kind = {kind: {thing["metadata"]["name"] for thing in things if thing["kind"] == kind} for kind in {thing["kind"] for thing in things}}
    for thing in things:
        strictly(thing, NEWEST)
        metadata = thing["metadata"]
        assert metadata.get("namespace") == (None if thing["kind"] in ALWAYS_THERE else "elsewhere"), metadata["name"]
        if thing["kind"] == "RoleBinding":
            # A role of another namespace would not be found.
            assert thing["roleRef"]["name"] in by_kind["Role"], metadata["name"]
        for subject in thing.get("subjects", []):
            own = subject["name"] in by_kind["ServiceAccount"]
            assert subject["namespace"] == ("elsewhere" if own else "kube-system"), metadata["name"]
    [service] = [thing["spec"]["service"] for thing in things if thing["kind"] == "APIService"]
    assert service["namespace"] == "elsewhere" and service["name"] in by_kind["Service"]
    for name, pod in pods(things).items():
        arguments = pod["containers"][0].get("args", [])
        if name in ("balancer", "worker"):
            assert [one for one in arguments if "[::]" in one] and not [one for one in arguments if "0.0.0.0" in one], arguments


def test_workers_reach_public_addresses_only():
    [policy] = [thing["spec"] for thing in rendered("gke") if thing["kind"] == "NetworkPolicy" and thing["metadata"]["name"] == "worker"]
    [rule] = policy["egress"]
    blocks = [block["ipBlock"] for block in rule["to"]]
    networks = [(ipaddress.ip_network(block["cidr"]), [ipaddress.ip_network(one) for one in block["except"]]) for block in blocks]
    for whole, holes in networks:
        # A cluster refuses the policy otherwise.
        assert all(hole.subnet_of(whole) for hole in holes)

    def is_reached(address):
        address = ipaddress.ip_address(address)
        return any(address in whole and not any(address in hole for hole in holes) for whole, holes in networks)

    assert all(map(is_reached, ["1.1.1.1", "93.184.216.34", "2606:4700::1111"]))
    for private in ["10.1.2.3", "100.64.0.1", "169.254.169.254", "172.17.0.1", "192.168.1.1", "fd00::1", "fe80::1", "::1", "2002:a00:1::1"]:
        assert not is_reached(private), private


def manifest(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def cloud_run(service):
    follows(service, "serving.knative.dev/v1", "knative-service")


def app_engine(settings):
    jsonschema.validate(settings, schema("appengine-flex"), jsonschema.Draft202012Validator)


def test_what_platforms_read_is_valid_to_the_letter():
    cloud_run(manifest("cloudrun/service.yaml"))
    app_engine(manifest("appengine/app.yaml"))


def changed(thing, value, *path):
    """A copy with one value set; `None` removes it."""
    copied = copy.deepcopy(thing)
    place = functools.reduce(lambda part, key: part[key], path[:-1], copied)
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copied


def test_what_is_wrong_for_platforms_and_for_what_is_installed_later_is_found():
    things = {thing["kind"]: thing for thing in rendered("gke") if thing["kind"] in INSTALLED_LATER}
    assert set(things) == set(INSTALLED_LATER)
    gateway, route, policy = things["Gateway"], things["HTTPRoute"], things["HealthCheckPolicy"]
    service, settings = manifest("cloudrun/service.yaml"), manifest("appengine/app.yaml")
    container = ("spec", "template", "spec", "containers", 0)
    wrong = [
        (strictly, gateway, "gateway.networking.k8s.io/v1alpha2", ["apiVersion"]),
        (strictly, gateway, "80", ["spec", "listeners", 0, "port"]),
        (strictly, gateway, None, ["spec", "gatewayClassName"]),
        (strictly, gateway, "Same", ["spec", "listeners", 0, "allowedRoutes", "namespace"]),
        (strictly, route, [], ["spec", "rules", 0, "backendRef"]),
        (strictly, route, "60", ["spec", "rules", 0, "timeouts", "request"]),
        (strictly, route, "Prefix", ["spec", "rules", 0, "matches", 0, "path", "type"]),
        (strictly, policy, 0, ["spec", "default", "checkIntervalSec"]),
        (strictly, policy, "/", ["spec", "default", "config", "httpHealthCheck", "path"]),
        (strictly, policy, None, ["spec", "targetRef"]),
        (cloud_run, service, {}, [*container, "readynessProbe"]),
        (cloud_run, service, "32", ["spec", "template", "spec", "containerConcurrency"]),
        (cloud_run, service, "serving.knative.dev/v1alpha1", ["apiVersion"]),
        (app_engine, settings, 2, ["automatic_scaling", "min_instances"]),
        (app_engine, settings, 2, ["env_variables", "BALANCER_SPAWN"]),
        (app_engine, settings, "v2/health/live", ["liveness_check", "path"]),
    ]
    for check, thing, value, path in wrong:
        arguments = [NEWEST] if check is strictly else []
        check(thing, *arguments)
        with pytest.raises(jsonschema.ValidationError):
            check(changed(thing, value, *path), *arguments)
            pytest.fail(f"{path} may be {value!r}")


def test_the_way_in_by_the_gateway_leads_to_the_balancer():
    things = {thing["kind"]: thing for thing in rendered("gke") if thing["kind"] in INSTALLED_LATER}
    services = {thing["metadata"]["name"]: thing["spec"] for thing in rendered("gke") if thing["kind"] == "Service"}
    route = things["HTTPRoute"]["spec"]
    listeners = {(things["Gateway"]["metadata"]["name"], one["name"]) for one in things["Gateway"]["spec"]["listeners"]}
    assert {(one["name"], one["sectionName"]) for one in route["parentRefs"]} <= listeners
    for rule in route["rules"]:
        for backend in rule["backendRefs"]:
            assert backend["port"] in {port["port"] for port in services[backend["name"]]["ports"]}
    assert things["HealthCheckPolicy"]["spec"]["targetRef"]["name"] in services


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
        # No more requests are sent to it by the time it stops, and then it has its thirty seconds.
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] + 30 < pod["terminationGracePeriodSeconds"]
        assert {spread["topologyKey"] for spread in pod["topologySpreadConstraints"]} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
    assert "replicas" not in by_name["Deployment", "worker"]["spec"], "autoscaling says how many"
    assert by_name["Service", "worker"]["spec"]["clusterIP"] == "None"


def test_what_stands_beside_the_service_is_open_to_those_alone_who_are_named():
    open_to_all = set()
    for overlay in set(OVERLAYS) - set(WITH_THE_SERVICE):
        policies = [thing for thing in rendered(overlay) if thing["kind"] == "NetworkPolicy"]
        open_to_all |= {one["metadata"]["name"] for one in policies for rule in one["spec"]["ingress"] if not rule.get("from")}
    # The API server has no labels to select it by.
    assert open_to_all == {"prometheus-adapter"}


def test_the_operators_token_is_for_the_operators_port_alone():
    things = {(thing["kind"], thing["metadata"]["name"]): thing for thing in rendered("monitoring")}
    jobs = yaml.safe_load(things["ConfigMap", "prometheus"]["data"]["prometheus.yml"])["scrape_configs"]
    asked = {}
    for job in jobs:
        [kept] = [rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"]
        asked[kept] = "authorization" in job
    assert asked == {"balancer-admin;admin": True, "worker;http": False}
    secrets = {name: set(re.findall(r"'(?:secretName|name)': '(imagefleet-\w+)'", str(pod))) for name, pod in pods(rendered("monitoring")).items()}
    assert secrets == {"prometheus": {"imagefleet-admin"}, "grafana": {"imagefleet-grafana"}, "prometheus-adapter": set()}
    guide = (ROOT / "docs" / "kubernetes.md").read_text()
    for secret in {"imagefleet-admin", *secrets["grafana"]}:
        assert f"create secret generic {secret} " in guide, secret


def asked_for():
    """Metric names in the expressions of the dashboard, the alerts and the autoscaling adapter."""
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
    # Counters of events that have not happened yet have a type but no value.
    there = set(re.findall(r"^(\w+)", text, re.MULTILINE))
    there |= {f"{name}_total" for name in re.findall(r"^# TYPE (\w+) counter", text, re.MULTILINE)}
    assert asked_for() <= there


def test_an_image_is_told_for_which_processor_it_is():
    """As `docker save` writes it: the configuration is named by its digest, and everything else stays as it is."""
    config = json.dumps({"architecture": "amd64", "config": {"User": "10001"}}).encode()
    files = {"old.json": config, "layer/layer.tar": b"layer", "layer/empty": b""}
    files["manifest.json"] = json.dumps([{"Config": "old.json", "RepoTags": ["a:arm64"], "Layers": ["layer/layer.tar"]}]).encode()
    saved = io.BytesIO()
    with tarfile.open(fileobj=saved, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    command = [sys.executable, ROOT / "scripts" / "image_for.py", "arm64"]
    changed = subprocess.run(command, input=saved.getvalue(), capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(changed)) as archive:
        found = {entry.name: archive.extractfile(entry).read() for entry in archive}
    [image] = json.loads(found["manifest.json"])
    assert json.loads(found[image["Config"]]) == {**json.loads(config), "architecture": "arm64"}
    assert image["Config"] == f"{hashlib.sha256(found[image['Config']]).hexdigest()}.json"
    assert image["RepoTags"] == ["a:arm64"] and set(found) == {*files, image["Config"]} - {"old.json"}
    assert found["layer/layer.tar"] == b"layer" and found["layer/empty"] == b""


def test_the_libraries_of_an_image_are_found_without_running_its_programs(tmp_path):
    """From a sysroot for another processor, whose loader cannot be run: the same libraries that ldd names."""
    programs, sysroot = tmp_path / "programs", tmp_path / "sysroot"
    programs.mkdir()
    (sysroot / "lib").mkdir(parents=True)
    for name in ("balancer", "worker", "client"):
        # Any program will do whose libraries have libraries themselves.
        shutil.copy2(shutil.which("git"), programs / name)
    told = subprocess.run(["ldd", programs / "balancer"], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(?:=> )?(/\S+) \(0x", told):
        shutil.copy2(path, sysroot / "lib")

    def made(name, **environment):
        command = ["sh", DEPLOY / "rootfs.sh", tmp_path / name, programs]
        subprocess.run(command, env=os.environ | environment, check=True)
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {(path.relative_to(tmp_path / name).parts[0], path.name): path.read_bytes() for path in files}

    asked = made("asked")
    assert len(asked) > 12, "base, three programs, and libraries for each"
    assert made("read", SYSROOT=str(sysroot)) == asked
