"""Writes the figures of a folder of `client reproduce` (or of `client scaling` alone) into bench/results: the scaling
and, if measured, the round trip by picture and the accuracy by size.

    sudo target/release/client reproduce --slice --photos PHOTOS --models MODELS --out results/slice
    python3 bench/reproduce.py results/slice "sudo client reproduce --slice --photos PHOTOS --models MODELS"
"""

import csv
import json
import sys
from pathlib import Path

from record import Result


def rows(path):
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def scaling(folder, command):
    found = rows(folder / "capacity.csv")
    trials = json.loads((folder / "manifest.json").read_text()).get("settings", {}).get("capacity_trials") or 1
    result = Result("slice-scaling", command, trials=trials)
    for row in found:
        servers = f"{row['servers']} worker{'s' if row['servers'] != '1' else ''}"
        result.add_interval("answers", servers, "/s", float(row["capacity/s"]), None, trials)
    for row in found[1:]:
        interval = (float(row["from"]), float(row["to"])) if row["from"] else None
        result.add_interval("speed-up", f"{row['servers']} workers", "x", float(row["speed-up"]), interval, trials)
    return result


def lines(folder, experiment):
    path = folder / experiment / "summary.json"
    return json.loads(path.read_text())["lines"] if path.is_file() else []


def accuracy(folder, command):
    result = Result("slice-accuracy", command)
    for line in lines(folder, "accuracy"):
        if line["answered"]:
            share, interval = line["top_1"] / line["answered"], line["top_1_interval"]
            ends = (100 * interval["low"], 100 * interval["high"])
            result.add_interval("accuracy", f"{line['side']} pixels", "%", 100 * share, ends, line["answered"])
    return result


def round_trip(folder, command):
    result = Result("slice-round-trip", command)
    for line in lines(folder, "rtt"):
        times, interval = line["rtt_ms"], line["p50_interval"]
        if times and times["p50"] is not None:
            picture = f"{line['width']} x {line['height']} pixels, {line['bytes'] / 1000:,.1f} kB"
            ends = interval and (interval["low"], interval["high"])
            result.add_interval("median round trip", picture, "ms", times["p50"], ends, times["count"])
    return result


def main():
    folder, command = Path(sys.argv[1]), sys.argv[2]
    whole = (folder / "scaling").is_dir()
    results = [scaling(folder / "scaling" if whole else folder, command)]
    if whole:
        results += [accuracy(folder, command), round_trip(folder, command)]
    for result in results:
        if result.content["figures"]:
            result.write()


if __name__ == "__main__":
    main()
