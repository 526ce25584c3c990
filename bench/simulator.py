"""Holds the simulator against the runs that client/validate.sh has measured, prints what it finds and writes it into
bench/results: once with what each request cost in the run, once with costs that are drawn from the run, and as what
`random` costs over `p2c`.

    python3 bench/simulator.py OUT --client target/release/client --command "sudo client/validate.sh OUT MODELS 150"
"""

import argparse
import json
import subprocess
from pathlib import Path

from record import Result

TRIALS = (1, 2, 3)
# The folder of each run, the policy it ran with, and how its row is called.
RUNS = [(f"u{load}", "p2c", f"p2c at {load} %") for load in (30, 60, 90)]
RUNS += [(f"p2c{trial}", "p2c", f"p2c at 80 %, run {trial}") for trial in TRIALS]
RUNS += [(f"random{trial}", "random", f"random at 80 %, run {trial}") for trial in TRIALS]
# What is asked of a replay: no quantile of it further off than this.
CLOSE = 0.10


class Runs:
    """The folders of the runs, and the program that simulates."""

    def __init__(self, folder, client, workers):
        self.folder, self.client, self.workers = Path(folder), client, workers

    def held(self, run, policy, *more):
        """Each quantile of a run, measured and simulated; those are left out for which it was too short."""
        command = [self.client, "simulate", "--workers", str(self.workers), "--policy", policy, "--json"]
        command += ["--against", self.folder / run, *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return {check["quantile"]: check for check in json.loads(done.stdout)}


def replays(runs, result):
    """Whether each quantile is close where each request costs what it cost in the run."""
    far = []
    for run, policy, name in RUNS:
        held = runs.held(run, policy)
        busy = [check["busy"] * 100 for check in held.values()][:1]
        if busy:
            result.add("busy", name, "%", busy)
        for quantile, check in held.items():
            measured = check["interval"] and (check["interval"]["low"], check["interval"]["high"])
            result.add_interval(f"{quantile} measured", name, "ms", check["measured"], measured, 1)
            simulated = (check["least"], check["most"])
            result.add_interval(f"{quantile} simulated", name, "ms", check["simulated"], simulated, 20)
            print(f"{name}: {quantile} {check['measured']:.1f} ms, simulated {check['error']:+.1%}")
            if abs(check["error"]) > CLOSE:
                far.append(f"{name} {quantile}")
    print(f"further off than {CLOSE:.0%}: {', '.join(far) or 'none'}")


def predictions(runs, result):
    """How far off the tail is where the costs are drawn from the run, as for a run that is yet to come."""
    for run, policy, name in RUNS:
        held = runs.held(run, policy, "--service-from", runs.folder / run)
        for quantile in ("p50", "p99"):
            if quantile in held:
                result.add(f"{quantile}, simulated over measured", name, "%", [held[quantile]["error"] * 100])


def policies(runs, result):
    """What `random` costs over `p2c`, measured and with the costs of either run."""
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
    experiments = {"simulator": replays, "simulator-prediction": predictions, "simulator-policies": policies}
    for experiment, judge in experiments.items():
        result = Result(experiment, options.command, workers=options.workers)
        judge(runs, result)
        result.write()


if __name__ == "__main__":
    main()
