"""Writes the scaling figures of a folder of `client reproduce` (or `client scaling`) into bench/results.

    sudo target/release/client reproduce --quick --slice --models MODELS --out results/slice
    python3 bench/reproduce.py results/slice "sudo client reproduce --quick --slice --models MODELS"
"""

import csv
import json
import sys
from pathlib import Path

from record import Result


def main():
    folder, command = Path(sys.argv[1]), sys.argv[2]
    scaling = folder / "scaling" if (folder / "scaling").is_dir() else folder
    with (scaling / "capacity.csv").open() as file:
        rows = list(csv.DictReader(file))
    trials = json.loads((scaling / "manifest.json").read_text()).get("settings", {}).get("capacity_trials") or 1
    result = Result("slice-scaling", command, trials=trials)
    for row in rows:
        servers = f"{row['servers']} worker{'s' if row['servers'] != '1' else ''}"
        result.add_interval("answers", servers, "/s", float(row["capacity/s"]), None, trials)
    for row in rows[1:]:
        interval = (float(row["from"]), float(row["to"])) if row["from"] else None
        result.add_interval("speed-up", f"{row['servers']} workers", "x", float(row["speed-up"]), interval, trials)
    result.write()


if __name__ == "__main__":
    main()
