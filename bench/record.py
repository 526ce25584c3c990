"""Records the results of a benchmark as a file in bench/results; README.md beside this script describes the format.

The benchmark scripts call `Result(...)`, `add` for each figure and `write`. A shell script, or a
program in another language, does the same from the command line:

    python3 bench/record.py fleet --command "./scripts/bench-fleet.sh PHOTO" <<'END'
    {"what": "photos answered", "of": "imagefleet", "unit": "/s", "values": [781, 784, 790]}
    END
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
SCHEMA = 1


def machine():
    """The machine: its processors, the instruction sets that matter, memory and kernel."""
    model, flags = platform.processor() or platform.machine(), set()
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)[1]
        flags = set(re.search(r"^flags\s*:\s*(.*)$", cpuinfo, re.MULTILINE)[1].split())
    except (OSError, TypeError):
        pass  # not Linux, or not x86: what Python knows has to do
    known = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        memory = None
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [word for flag, word in known.items() if flag in flags],
        "memory_gib": memory and round(memory),
        "virtual": "hypervisor" in flags,
        "kernel": f"{platform.system()} {platform.release()}",
    }


def commit():
    """The commit that is checked out, with `+` appended if tracked files differ from it."""

    def git(*words):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=7", "HEAD")
    return head + "+" if head and git("status", "--porcelain", "--untracked-files=no") else head or None


def megabytes(kilobytes):
    """Converts the kernel's kB (1,024 bytes) to megabytes (a million bytes)."""
    return kilobytes * 1024 / 1e6


def figure(what, of, unit, values):
    """One figure: the median of the values and their range, or the only value."""
    values = sorted(values)
    if not values:
        raise ValueError(f"{what}, {of}: no value")
    spread = {"low": values[0], "high": values[-1]} if len(values) > 1 else {"low": None, "high": None}
    return {"what": what, "of": of, "unit": unit, "median": statistics.median(values), **spread, "runs": len(values)}


class Result:
    """One run of one benchmark."""

    def __init__(self, experiment, command, **settings):
        self.content = {
            "schema": SCHEMA,
            "experiment": experiment,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "command": command,
            "settings": settings,
            "figures": [],
        }

    def add(self, what, of, unit, values):
        self.content["figures"].append(figure(what, of, unit, values))

    def add_interval(self, what, of, unit, middle, interval, runs):
        """Adds a figure whose range is a confidence interval that the program itself has computed, or `None`."""
        low, high = interval or (None, None)
        one = {"what": what, "of": of, "unit": unit, "median": middle, "low": low, "high": high, "runs": runs}
        self.content["figures"].append(one)

    def judge(self, summaries):
        """Notes if the load generator fell short in any of these `client load` runs: their figures are its own."""
        found = [[one["text"] for one in summary["verdict"]["reasons"] if one["cause"] == "generator"] for summary in summaries]
        short = [reasons for reasons in found if reasons]
        if short:
            told = f"The load generator fell short in {len(short)} of {len(found)} runs ({'; '.join(short[0])})."
            print(told, file=sys.stderr)
            self.content["note"] = " ".join(filter(None, [self.content.get("note"), told]))

    def write(self, folder=None):
        """Writes the file and returns its path. Further runs of a commit on the same day are numbered."""
        folder = Path(folder or os.environ.get("IMAGEFLEET_RESULTS") or RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.content['experiment']}.{self.content['date'][:10]}.{(self.content['commit'] or 'unknown').rstrip('+')}"
        number, path = 1, folder / f"{name}.json"
        while path.exists():
            number += 1
            path = folder / f"{name}.{number}.json"
        path.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        print(f"written to {path}", file=sys.stderr)
        return path


def command_line():
    """The command as typed: of this Python script, or of the shell script that ran it (BENCH_COMMAND)."""
    is_ours = Path(sys.prefix) == ROOT / ".venv"
    python = ".venv/bin/python" if is_ours else "python3"
    script = os.environ.get("BENCH_COMMAND") or f"{python} {os.path.relpath(sys.argv[0], ROOT)}"
    return " ".join([script, *sys.argv[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--command", required=True)
    options = parser.parse_args()
    result = Result(options.experiment, options.command)
    for line in sys.stdin:
        if line.strip():
            read = json.loads(line)
            result.add(read["what"], read["of"], read["unit"], read["values"])
    result.write()


if __name__ == "__main__":
    main()
