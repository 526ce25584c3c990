"""Writes the figures of a run of scripts/bench-fleet.sh, whose samples are in FOLDER, into bench/results.

    python3 bench/fleet.py FOLDER USERS COMMAND
"""

import csv
import json
import sys
from pathlib import Path

from record import Result


def latencies(path):
    """Latencies in milliseconds of the requests answered after the warm-up."""
    with path.open() as file:
        return [float(row["latency_ms"]) for row in csv.DictReader(file) if row["warm_up"] == "false" and row["outcome"] == "200"]


def main():
    folder, users, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    load = json.loads((folder / "load" / "summary.json").read_text())
    result = Result("fleet", command)
    result.judge([load])
    result.add(f"photos answered, {users} users", "imagefleet", "/s", [load["throughput"]])
    alone = sorted(latencies(folder / "rtt" / "samples.csv"))
    if not alone:
        sys.exit(f"{folder}/rtt: no request was answered")
    result.add("round trip of a photo alone, median", "imagefleet", "ms", [alone[len(alone) // 2]])
    result.write()


if __name__ == "__main__":
    main()
