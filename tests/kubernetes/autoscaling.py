"""What autoscaling is good for: Locust's users on the cluster that kubectl points to, without it and with it.

    python3 tests/kubernetes/autoscaling.py                       75 users that upload photos
    python3 tests/kubernetes/autoscaling.py --users 225 --overlay deploy/kubernetes/overlays/load-test

It applies an overlay that has Locust in it, lets the users come, stay and go once with a fixed number of
workers and once with the autoscaler, looks every two seconds at what becomes of users, answers, workers
and processor time, and writes bench/results/kubernetes-autoscaling.DATE.COMMIT.json. It takes about
fifteen minutes. The images have to be where the nodes find them (docs/kubernetes.md).
"""

import argparse
import contextlib
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
# How many of a processor's units a suffix stands for, as the metrics API writes amounts.
SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
EVERY = 2.0
LOCUST = f"/api/v1/namespaces/{SPACE}/services/locust:http/proxy"


def kubectl(*words, stdin=None):
    done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Cluster:
    """The API, by way of `kubectl proxy`, which knows how to say who we are."""

    def __init__(self):
        command = ["kubectl", "proxy", "--port", "0"]
        self._proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = self._proxy.stdout.readline()
        self._base = "http://127.0.0.1:" + re.search(r":(\d+)", said)[1]

    def close(self):
        self._proxy.terminate()
        self._proxy.wait()

    def ask(self, path, form=None):
        body = None if form is None else urllib.parse.urlencode(form, doseq=True).encode()
        with urllib.request.urlopen(self._base + path, data=body, timeout=30) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.ask(path))

    def statistics(self):
        return self.get(f"{LOCUST}/stats/requests")

    def order(self, what, **form):
        """Locust begins, ends or forgets."""
        self.ask(f"{LOCUST}/{what}", form)

    def workers(self):
        """How many are wanted, and how many are ready."""
        found = self.get(f"/apis/apps/v1/namespaces/{SPACE}/deployments/worker")
        return found["spec"].get("replicas", 0), found["status"].get("readyReplicas", 0)

    def processors(self):
        """The processors that all workers take together, as the metrics API last knew."""
        label = urllib.parse.quote("app.kubernetes.io/name=worker")
        pods = self.get(f"/apis/metrics.k8s.io/v1beta1/namespaces/{SPACE}/pods?labelSelector={label}")["items"]
        return sum(amount(one["usage"]["cpu"]) for pod in pods for one in pod["containers"])


def amount(text):
    digits, suffix = re.fullmatch(r"(\d+)([num]?)", text).groups()
    return int(digits) * SUFFIXES[suffix]


def sample(cluster, since):
    """A line of the series. Without users, what Locust says is of those who did before."""
    said = cluster.statistics()
    are_there = said["user_count"] > 0
    times = said.get("current_response_time_percentiles") if are_there else {}
    wanted, ready = cluster.workers()
    return {
        "second": round(time.monotonic() - since, 1),
        "users": said["user_count"],
        "requests per second": round(said["total_rps"], 1) if are_there else 0.0,
        "median": times.get("response_time_percentile_0.5") or None,
        "95th percentile": times.get("response_time_percentile_0.95") or None,
        "workers wanted": wanted,
        "workers": ready,
        "processors": round(cluster.processors(), 3),
    }


def watch(cluster, series, since, seconds, enough=None):
    """Adds lines until the time is over or what is waited for is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        # A look that fails is a hole in the series and no more.
        with contextlib.suppress(urllib.error.URLError, TimeoutError, KeyError):
            series.append(sample(cluster, since))
            if enough and enough(series[-1]):
                return True
        time.sleep(max(0.0, EVERY - (time.monotonic() - started)))
    return enough is None


def users_come_and_go(cluster, options, least):
    """One run: quiet, users, quiet. Returns its series and what Locust counted."""
    cluster.order("stats/reset")
    series, since = [], time.monotonic()
    watch(cluster, series, since, 20)
    users = {"user_count": options.users, "spawn_rate": options.spawn_rate, "user_classes": options.user}
    cluster.order("swarm", host="http://balancer", **users)
    watch(cluster, series, since, options.seconds)
    [total] = [one for one in cluster.statistics()["stats"] if one["name"] == "Aggregated"]
    cluster.order("stop")
    if not watch(cluster, series, since, options.quiet, lambda line: line["workers"] == least and line["second"] > options.seconds + 60):
        print(f"there are still {series[-1]['workers']} workers after {options.quiet} s without users", file=sys.stderr)
    return series, total


def settled(series, key, share=0.5):
    """The values of the last part of the time with all users."""
    most = max(line["users"] for line in series)
    lines = [line[key] for line in series if line["users"] == most and line[key] is not None]
    return lines[int(len(lines) * share) :]


def prepare(options):
    kubectl("apply", "--filename", str(ROOT / "deploy/kubernetes/base/namespace.yaml"))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "imagefleet-admin", "namespace": SPACE}}
    secret["stringData"] = {"token": secrets.token_hex(32)}
    kubectl("apply", "--filename", "-", stdin=json.dumps(secret))
    kubectl("apply", "--kustomize", options.overlay)
    for name in ("worker", "balancer", "locust", "locust-worker"):
        kubectl("--namespace", SPACE, "rollout", "status", f"deployment/{name}", "--timeout=300s")


def until(what, condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(1)


def add_figures(result, of, series, total):
    result.add("requests", of, "", [total["num_requests"]])
    result.add("requests that failed", of, "", [total["num_failures"]])
    result.add("answers a second, second half of the users' time", of, "/s", settled(series, "requests per second"))
    result.add("median response time, second half", of, "ms", settled(series, "median"))
    result.add("95th percentile, second half", of, "ms", settled(series, "95th percentile"))
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
    options = parser.parse_args()
    prepare(options)
    autoscaler = json.loads(kubectl("--namespace", SPACE, "get", "hpa", "worker", "--output", "json"))
    least = autoscaler["spec"]["minReplicas"]
    nodes = json.loads(kubectl("get", "nodes", "--output", "json"))["items"]
    version = nodes[0]["status"]["nodeInfo"]["kubeletVersion"]
    result = Result("kubernetes-autoscaling", command_line(), kubernetes=version, nodes=len(nodes), users=options.users)
    result.content["series"] = {}
    cluster = Cluster()
    try:
        until("Locust's workers", lambda: cluster.statistics().get("workers"))
        for of in ("without autoscaling", "with autoscaling"):
            if of == "without autoscaling":
                kubectl("--namespace", SPACE, "delete", "hpa", "worker")
                kubectl("--namespace", SPACE, "scale", "deployment", "worker", f"--replicas={least}")
            else:
                kubectl("apply", "--kustomize", options.overlay)
            until("the least workers", lambda: cluster.workers() == (least, least))
            print(f"{options.users} users {of}", file=sys.stderr)
            series, total = users_come_and_go(cluster, options, least)
            result.content["series"][of] = {key: [line[key] for line in series] for key in series[0]}
            add_figures(result, of, series, total)
    finally:
        cluster.close()
    result.write()


if __name__ == "__main__":
    main()
