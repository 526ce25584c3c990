"""Compares the simulator with the runs measured by client/validate.sh, prints the comparison and writes it into
bench/results: once with the cost of each request in the run, once with costs drawn from the run, and as the cost of
`random` relative to `p2c`.

A run under `random` is a single draw of picks, on which the tail depends for minutes. The effect is computed without
the simulator, since these picks depend on nothing: the queues that the run's own picks build from its costs in random
order, compared with the queues that other picks build from them.

    python3 bench/simulator.py OUT --client target/release/client --command "sudo client/validate.sh OUT MODELS 150"
"""

import argparse
import csv
import json
import random
import statistics
import subprocess
from pathlib import Path

from record import Result

TRIALS = (1, 2, 3)
# For each run: its folder, its policy, and the name of its row.
RUNS = [(f"u{load}", "p2c", f"p2c at {load} %") for load in (30, 60, 90)]
RUNS += [(f"p2c{trial}", "p2c", f"p2c at 80 %, run {trial}") for trial in TRIALS]
RUNS += [(f"random{trial}", "random", f"random at 80 %, run {trial}") for trial in TRIALS]
# What replays must meet: each quantile of a policy is off by at most this many percent in the mean of its runs.
CLOSE = 10
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
SHUFFLES = 20


class Runs:
    """The folders of the runs, and the program that simulates."""

    def __init__(self, folder, client, workers):
        self.folder, self.client, self.workers = Path(folder), client, workers

    def held(self, run, policy, *more):
        """Each quantile of a run, measured and simulated. Quantiles for which the run was too short are left out."""
        command = [self.client, "simulate", "--workers", str(self.workers), "--policy", policy, "--json"]
        command += ["--against", self.folder / run, *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return {check["quantile"]: check for check in json.loads(done.stdout)}


def queues(arrivals, picks, costs):
    """The sorted latencies of requests at workers that serve one request at a time."""
    free, latencies = {}, []
    for came, worker, cost in zip(arrivals, picks, costs, strict=True):
        free[worker] = max(came, free.get(worker, 0)) + cost
        latencies.append(free[worker] - came)
    return sorted(latencies)


def luck(folder):
    """How much the picks of a run changed each quantile, relative to what random picks are expected to give."""
    with (folder / "samples.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["outcome"] == "200"]
    rows.sort(key=lambda row: int(row["done_us"]))
    free, requests = {}, []
    for row in rows:
        came, done, worker = int(row["sent_us"]), int(row["done_us"]), row["endpoint"]
        requests.append((came, worker, done - max(came, free.get(worker, 0))))
        free[worker] = done
    requests.sort()
    arrivals, picks, costs = (list(column) for column in zip(*requests, strict=True))
    workers, rng, found = sorted(set(picks)), random.Random(1), {}
    for _ in range(SHUFFLES):
        rng.shuffle(costs)
        own = queues(arrivals, picks, costs)
        others = queues(arrivals, rng.choices(workers, k=len(picks)), costs)
        for quantile, share in QUANTILES.items():
            place = int(share * len(own))
            found.setdefault(quantile, []).append((own[place], others[place]))
    return {
        quantile: statistics.mean(own for own, _ in pairs) / statistics.mean(others for _, others in pairs) - 1
        for quantile, pairs in found.items()
    }


def replays(runs, result, errors):
    """Each quantile if every request costs what it did in the run; deviations go to `errors`."""
    off, without_luck = {}, {}
    for run, policy, name in RUNS:
        held = runs.held(run, policy)
        lucky = luck(runs.folder / run) if policy == "random" else {}
        busy = [check["busy"] * 100 for check in held.values()][:1]
        if busy:
            result.add("busy", name, "%", busy)
        for quantile, check in held.items():
            measured = check["interval"] and (check["interval"]["low"], check["interval"]["high"])
            result.add_interval(f"{quantile} measured", name, "ms", check["measured"], measured, 1)
            simulated = (check["least"], check["most"])
            result.add_interval(f"{quantile} simulated", name, "ms", check["simulated"], simulated, 20)
            off.setdefault((policy, quantile), []).append(100 * check["error"])
            by_luck = lucky.get(quantile, 0)
            without_luck.setdefault((policy, quantile), []).append(100 * ((1 + check["error"]) * (1 + by_luck) - 1))
            print(f"{name}: {quantile} {check['measured']:.1f} ms, simulated {check['error']:+.1%}")
    for (policy, quantile), values in off.items():
        rest = without_luck[policy, quantile]
        errors.add(f"{quantile} off", policy, "%", values)
        errors.add(f"{quantile} off, luck of the picks aside", policy, "%", rest)
        verdict = "within" if abs(statistics.mean(rest)) <= CLOSE else "NOT within"
        told = f"{statistics.mean(values):+.1f} % in the mean of its runs, {statistics.mean(rest):+.1f} % luck aside"
        print(f"{policy}, {quantile}: {told}: {verdict} {CLOSE} %")


def predictions(runs, result):
    """How far off the quantiles are if costs are drawn from the run, as for a run yet to come."""
    for run, policy, name in RUNS:
        held = runs.held(run, policy, "--service-from", runs.folder / run)
        for quantile in ("p50", "p99"):
            if quantile in held:
                result.add(f"{quantile}, simulated over measured", name, "%", [held[quantile]["error"] * 100])


def policies(runs, result):
    """The cost of `random` relative to `p2c`: measured, and simulated with the costs of either run."""
    for trial in TRIALS:
        held = {
            (run, policy): runs.held(f"{run}{trial}", policy).get("p99")
            for run in ("p2c", "random")
            for policy in ("p2c", "random")
        }
        if not all(held.values()):
            continue
        measured = held["random", "random"]["measured"] / held["p2c", "p2c"]["measured"]
        result.add("measured", f"pair {trial}", "x", [measured])
        for run in ("p2c", "random"):
            simulated = held[run, "random"]["simulated"] / held[run, "p2c"]["simulated"]
            result.add(f"simulated with the costs of the {run} run", f"pair {trial}", "x", [simulated])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the folder of client/validate.sh")
    parser.add_argument("--client", default="target/release/client")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--command", required=True, help="what measured the runs, for the results")
    options = parser.parse_args()
    runs = Runs(options.out, options.client, options.workers)
    settings = {"workers": options.workers}
    experiments = ("simulator", "simulator-errors", "simulator-prediction", "simulator-policies")
    seen, errors, predicted, compared = (Result(name, options.command, **settings) for name in experiments)
    replays(runs, seen, errors)
    predictions(runs, predicted)
    policies(runs, compared)
    for result in (seen, errors, predicted, compared):
        result.write()


if __name__ == "__main__":
    main()
