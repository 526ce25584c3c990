"""Writes the figures of a run of scripts/bench-elasticity.sh, whose samples are in FOLDER, into bench/results.

    python3 bench/elasticity.py FOLDER COMMAND
"""

import json
import re
import statistics
import sys
from pathlib import Path

from record import Result, megabytes

# Seconds per row of the table.
PART = 20


def parts(load):
    """The run in parts: from when, what happened in it, and how many workers took requests meanwhile."""
    end = max(moment["seconds"] for moment in load["timeline"])
    for start in range(0, int(end), PART):
        moments = [one for one in load["timeline"] if start <= one["seconds"] < start + PART]
        counts = [one["available"] for one in load["workers"] if start <= one["seconds"] < start + PART]
        if moments and counts:
            yield start, moments, counts


def series(load):
    """The same run as curves, which docs/elasticity.svg shows."""
    moments = load["timeline"]

    def available(second):
        return next(one["available"] for one in reversed(load["workers"]) if one["seconds"] <= max(second, 0.1))

    columns = {"requests due": "offered_rate", "answers": "throughput", "95 % within": "p95_ms"}
    rounded = {name: [one[key] and round(one[key], 1) for one in moments] for name, key in columns.items()}
    seconds = [round(one["seconds"], 1) for one in moments]
    return {"second": seconds, **rounded, "workers": [available(second) for second in seconds]}


def main():
    folder, command = Path(sys.argv[1]), sys.argv[2]
    load = json.loads((folder / "load" / "summary.json").read_text())
    lost = sum(count for outcome, count in load["outcomes"].items() if outcome != "200")
    result = Result("elasticity", command, requests=load["requests"], failed=lost)
    result.judge([load])
    for start, moments, counts in parts(load):
        what = f"{start} to {start + PART} s"

        def mean(key):
            return [statistics.fmean(one[key] for one in moments if one[key] is not None)]

        result.add(what, "requests due", "/s", mean("offered_rate"))
        result.add(what, "answers", "/s", mean("throughput"))
        tails = [one["p95_ms"] for one in moments if one["p95_ms"] is not None]
        if tails:
            result.add(what, "95 % within", "ms", [statistics.median(tails)])
        result.add(what, "workers that take requests", "", counts)
    result.content["series"] = {"workers that follow the load": series(load)}
    result.write()
    idle = Result("idle-worker", command, threads=1)
    for line in (folder / "idle").read_text().splitlines():
        name, kilobytes = re.fullmatch(r"(\w+) (\d+)", line).groups()
        idle.add("resident memory", f"model of {name}", "MB", [megabytes(int(kilobytes))])
    idle.write()


if __name__ == "__main__":
    main()
