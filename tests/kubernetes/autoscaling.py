"""Measures the effect of autoscaling: Locust's users on the cluster that kubectl points to, without it and with it.

    python3 tests/kubernetes/autoscaling.py                       75 users that upload photos
    python3 tests/kubernetes/autoscaling.py --users 225 --experiment kubernetes-overload
    python3 tests/kubernetes/autoscaling.py --overlay tests/kubernetes/queue --experiment kubernetes-queue
    python3 tests/kubernetes/autoscaling.py --overlay FOLDER      an overlay of your own

It applies an overlay that includes the service and components/load-test and lets the API server reach Locust. It lets
the users come, stay and leave, once with a fixed number of workers and once with the autoscaler, samples users,
answers, workers and processor time every two seconds, and writes bench/results/EXPERIMENT.DATE.COMMIT.json. Requests
that are answered 429 with `Retry-After` are counted apart from those that fail. It takes about fifteen minutes. The
images have to be where the nodes find them (docs/kubernetes.md).
"""

import argparse
import contextlib
import http.client
import json
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from record import Result, command_line  # noqa: E402

SPACE = "imagefleet"
# The factor that a suffix of the metrics API stands for.
SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
EVERY = 2.0
LOCUST = f"/api/v1/namespaces/{SPACE}/services/locust:http/proxy"
BALANCER = f"/api/v1/namespaces/{SPACE}/services/balancer:http/proxy"
# What deploy/locust/locustfile.py appends to the names of requests that were answered 429 with `Retry-After`.
TURNED_AWAY = " (turned away)"
PROMPT = 600.0


def kubectl(*words, stdin=None):
    done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, check=False, timeout=PROMPT)
    if done.returncode:
        sys.exit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Cluster:
    """The API through `kubectl proxy`, which authenticates us."""

    def __init__(self):
        command = ["kubectl", "proxy", "--port", "0"]
        self._proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = self._proxy.stdout.readline()
        if not (port := re.search(r":(\d+)", said)):
            sys.exit(f"kubectl proxy says no port: {said!r}")
        self._base = f"http://127.0.0.1:{port[1]}"

    def close(self):
        self._proxy.terminate()
        self._proxy.wait()

    def ask(self, path, form=None, body=None, **headers):
        if form is not None:
            body = urllib.parse.urlencode(form, doseq=True).encode()
        request = urllib.request.Request(self._base + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.ask(path))

    def statistics(self):
        return self.get(f"{LOCUST}/stats/requests")

    def order(self, what, **form):
        """Makes Locust start, stop, or reset its statistics."""
        self.ask(f"{LOCUST}/{what}", form)

    def model(self):
        """The model that answers a picture sent without naming a model, as the users' photos are."""
        picture = (ROOT / "docs" / "seven.png").read_bytes()
        answer = json.loads(self.ask(f"{BALANCER}/predict", body=picture, **{"Content-Type": "image/png", "Accept": "application/json"}))
        return f"{answer['model']} {answer['version']}"

    def restarts(self):
        """How often the current containers of the service were restarted."""
        label = urllib.parse.quote("app.kubernetes.io/name in (balancer, worker)")
        pods = self.get(f"/api/v1/namespaces/{SPACE}/pods?labelSelector={label}")["items"]
        return sum(one["restartCount"] for pod in pods for one in pod["status"].get("containerStatuses", []))

    def workers(self):
        """The number of workers that are wanted, and of those that are ready."""
        found = self.get(f"/apis/apps/v1/namespaces/{SPACE}/deployments/worker")
        return found["spec"].get("replicas", 0), found["status"].get("readyReplicas", 0)

    def waiting(self):
        """The number of waiting requests, as reported to the autoscaler; `None` if it is not reported."""
        path = f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{SPACE}/services/balancer-admin/waiting_requests"
        try:
            return amount(self.get(path)["items"][0]["value"])
        except urllib.error.HTTPError:
            return None

    def processors(self):
        """The processors that all workers use together, as last reported by the metrics API."""
        label = urllib.parse.quote("app.kubernetes.io/name=worker")
        pods = self.get(f"/apis/metrics.k8s.io/v1beta1/namespaces/{SPACE}/pods?labelSelector={label}")["items"]
        return sum(amount(one["usage"]["cpu"]) for pod in pods for one in pod["containers"])


def amount(text):
    digits, suffix = re.fullmatch(r"(\d+)([num]?)", text).groups()
    return int(digits) * SUFFIXES[suffix]


def sample(cluster, since):
    """One line of the series. While there are no users, Locust repeats the figures of earlier ones."""
    said = cluster.statistics()
    are_there = said["user_count"] > 0
    times = said.get("current_response_time_percentiles") if are_there else {}
    wanted, ready = cluster.workers()
    return {
        "second": round(time.monotonic() - since, 1),
        "users": said["user_count"],
        # Over the last seconds: `total_rps` is the mean since the first one.
        "answers per second": round(said["current_rps"] - said["current_fail_per_sec"], 1) if are_there else 0.0,
        "median": times.get("response_time_percentile_0.5") or None,
        "95th percentile": times.get("response_time_percentile_0.95") or None,
        "workers wanted": wanted,
        "workers": ready,
        "processors": round(cluster.processors(), 3),
        "waiting": cluster.waiting(),
    }


def watch(cluster, series, since, seconds, enough=None):
    """Adds lines until the time is over or the condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        # A failed query only leaves a gap in the series.
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            series.append(sample(cluster, since))
            if enough and enough(series[-1]):
                return True
        time.sleep(max(0.0, EVERY - (time.monotonic() - started)))
    return enough is None


def users_come_and_go(cluster, options, least):
    """One run: quiet, users, quiet. Returns its series, Locust's counts by name, and the number of restarts."""
    cluster.order("stats/reset")
    series, since = [], time.monotonic()
    watch(cluster, series, since, 20)
    users = {"user_count": options.users, "spawn_rate": options.spawn_rate, "user_classes": options.user}
    cluster.order("swarm", host="http://balancer", **users)
    watch(cluster, series, since, options.seconds)
    counted = {one["name"]: one for one in cluster.statistics()["stats"]}
    restarts = cluster.restarts()
    cluster.order("stop")
    if not watch(cluster, series, since, options.quiet, lambda line: line["workers"] == least and line["second"] > options.seconds + 60):
        print(f"there are still {series[-1]['workers']} workers after {options.quiet} s without users", file=sys.stderr)
    return series, counted, restarts


def settled(series, key, share=0.5):
    """The values of the last part of the time with all users."""
    most = max(line["users"] for line in series)
    lines = [line[key] for line in series if line["users"] == most and line[key] is not None]
    return lines[int(len(lines) * share) :]


def prepare(options):
    # Wait for the remains of an earlier run to go: nothing can be created in a namespace that is terminating.
    phase = kubectl("get", "namespace", SPACE, "--ignore-not-found", "--output", "jsonpath={.status.phase}")
    if phase == "Terminating":
        kubectl("wait", "--for", "delete", f"namespace/{SPACE}", "--timeout", "180s")
    kubectl("apply", "--filename", str(ROOT / "deploy/kubernetes/base/namespace.yaml"))
    # An existing secret is kept: running balancers know it.
    if not kubectl("--namespace", SPACE, "get", "secret", "imagefleet-admin", "--ignore-not-found", "--output", "name"):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "imagefleet-admin", "namespace": SPACE}}
        secret["stringData"] = {"token": secrets.token_hex(32)}
        kubectl("apply", "--filename", "-", stdin=json.dumps(secret))
    kubectl("apply", "--kustomize", options.overlay)
    for name in kubectl("--namespace", SPACE, "get", "deployments", "--output", "name").split():
        kubectl("--namespace", SPACE, "rollout", "status", name, "--timeout=300s")


def until(what, condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(1)


def outcomes(counted):
    """The number of requests, of those turned away and of those failed, and Locust's largest entry among the rest."""
    total = counted.pop("Aggregated")
    turned_away = sum(one["num_requests"] for name, one in counted.items() if name.endswith(TURNED_AWAY))
    rest = [one for name, one in counted.items() if not name.endswith(TURNED_AWAY)]
    return total["num_requests"], turned_away, total["num_failures"] - turned_away, max(rest, key=lambda one: one["num_requests"])


def add_figures(result, of, series, counted, restarts):
    requests, turned_away, failed, served = outcomes(counted)
    result.add("requests", of, "", [requests])
    result.add("turned away: 429 with `Retry-After`", of, "", [turned_away])
    result.add("requests that failed", of, "", [failed])
    result.add("containers that were started again", of, "", [restarts])
    result.add("answers per second, second half of the users' time", of, "/s", settled(series, "answers per second"))
    if turned_away:
        # The figures of the last seconds do not tell the two apart.
        result.add("median response time of what was not turned away", of, "ms", [served["median_response_time"]])
        result.add("95th percentile of what was not turned away", of, "ms", [served["response_time_percentile_0.95"]])
    else:
        result.add("median response time, second half", of, "ms", settled(series, "median"))
        result.add("95th percentile, second half", of, "ms", settled(series, "95th percentile"))
    if waiting := settled(series, "waiting", share=0.0):
        result.add("most requests that wait, as the autoscaler was told", of, "", [max(waiting)])
    result.add("most workers", of, "", [max(line["workers"] for line in series)])
    result.add("workers at the end", of, "", [series[-1]["workers"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=75)
    parser.add_argument("--spawn-rate", type=float, default=2.5)
    parser.add_argument("--user", default="PhotoUser", help="which of the users in deploy/locust/locustfile.py")
    parser.add_argument("--seconds", type=float, default=210, help="how long they stay")
    parser.add_argument("--quiet", type=float, default=420, help="how long to wait at most until the workers are few again")
    parser.add_argument("--overlay", default=str(ROOT / "tests/kubernetes/overlay"))
    parser.add_argument("--experiment", default="kubernetes-autoscaling", help="what the result is called")
    options = parser.parse_args()
    prepare(options)
    autoscaler = json.loads(kubectl("--namespace", SPACE, "get", "hpa", "worker", "--output", "json"))
    least = autoscaler["spec"]["minReplicas"]
    nodes = json.loads(kubectl("get", "nodes", "--output", "json"))["items"]
    version = nodes[0]["status"]["nodeInfo"]["kubeletVersion"]
    result = Result(options.experiment, command_line(), kubernetes=version, nodes=len(nodes), users=options.users)
    result.content["series"] = {}
    cluster = Cluster()
    try:
        until("Locust's workers", lambda: cluster.statistics().get("workers"))
        result.content["settings"]["model"] = cluster.model()
        for of in ("without autoscaling", "with autoscaling"):
            if of == "without autoscaling":
                kubectl("--namespace", SPACE, "delete", "hpa", "worker")
                kubectl("--namespace", SPACE, "scale", "deployment", "worker", f"--replicas={least}")
            else:
                kubectl("apply", "--kustomize", options.overlay)
            until("the least workers", lambda: cluster.workers() == (least, least))
            print(f"{options.users} users {of}", file=sys.stderr)
            series, *seen = users_come_and_go(cluster, options, least)
            result.content["series"][of] = {key: [line[key] for line in series] for key in series[0]}
            add_figures(result, of, series, *seen)
    finally:
        cluster.close()
    result.write()


if __name__ == "__main__":
    main()
