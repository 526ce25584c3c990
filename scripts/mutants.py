#!/usr/bin/env python3
"""Breaks the rules of the dispatcher one by one, and checks that its tests notice.

    scripts/mutants.py               every rule of fleet/tests/mutants.toml: about ten minutes
    scripts/mutants.py panic drain   rules whose text contains one of these words
    scripts/mutants.py --check       only checks that each change still fits the code

Each change is made in a copy of the tree below target/. For each rule, prints the seed that fails and
what was noticed. Exits with an error if a broken rule goes unnoticed.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# Seconds: much longer than the tests take, for a change that makes something run forever.
LIMIT = 300


def text_of(mutant: dict, root: Path) -> str:
    """The text of the file that a mutant changes; an error unless the code to change occurs exactly once."""
    text = (root / "fleet" / "src" / mutant["file"]).read_text()
    found = text.count(mutant["code"])
    if found != 1:
        sys.exit(f"{mutant['file']} has {found} times: {mutant['code'].strip()}\n"
                 f"fleet/tests/mutants.toml breaks this rule there: {mutant['rule']}")
    return text


def copy_tree() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(COPY, ignore_errors=True)
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, COPY / name)


def run_tests(arguments: list[str]) -> tuple[int | None, str]:
    """The exit status of the tests, `None` if they did not end, and their output."""
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET), RUST_BACKTRACE="0")
    build = ["cargo", "test", "--quiet", "--locked", "--package", "fleet"]
    built = subprocess.run([*build, "--no-run", *arguments[:2]], cwd=COPY, env=environment,
                           capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"the change does not compile:\n{built.stderr}")
    with subprocess.Popen([*build, *arguments], cwd=COPY, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as tests:
        try:
            said, _ = tests.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, 9)
            return None, ""
    return tests.returncode, said


def noticed(said: str) -> str:
    """The first seed that failed, or the test, and why."""
    found, why = [], ""
    lines = said.splitlines()
    for number, line in enumerate(lines):
        panicked = re.search(r"thread '(\S+)'.* panicked at (\S+):\d+:\d+:$", line)
        seed = re.match(r"seed (\d+) breaks a rule", line)
        if seed:
            found.append((int(seed[1]), f"seed {seed[1]}: {why}"))
        elif panicked and not panicked[2].endswith("simulation/main.rs"):
            why = lines[number + 1] if number + 1 < len(lines) else ""
            found.append((1 << 32, f"{panicked[1]}: {why}"))
    return min(found, default=(0, "a test"))[1]


def main() -> None:
    words = sys.argv[1:]
    mutants = tomllib.loads((ROOT / "fleet" / "tests" / "mutants.toml").read_text())["mutant"]
    for mutant in mutants:
        text_of(mutant, ROOT)
    if words == ["--check"]:
        return
    chosen = [it for it in mutants if not words or any(word in it["rule"] for word in words)]
    copy_tree()
    unnoticed = []
    for mutant in chosen:
        path = COPY / "fleet" / "src" / mutant["file"]
        whole = text_of(mutant, COPY)
        path.write_text(whole.replace(mutant["code"], mutant["instead"]))
        status, said = run_tests(mutant.get("tests", ["--test", "simulation"]))
        path.write_text(whole)
        if status == 0:
            unnoticed.append(mutant["rule"])
        result = {0: "NOT NOTICED", None: "the histories do not end"}.get(status) or noticed(said)
        print(f"{mutant['rule']}\n    {result}", flush=True)
    if unnoticed:
        sys.exit(f"{len(unnoticed)} of {len(chosen)} broken rules go unnoticed")
    print(f"{len(chosen)} rules were broken, and each was noticed.")


main()
