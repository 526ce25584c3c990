"""Documents are true: the commands of the README and the tutorial run as printed, every command and flag that a
document names exists, figures come from results, links lead somewhere, and reference pages match the code."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests
from conftest import TARGET
from documents import blocks, commands, documents, scripts
from fleet import DATA, ROOT, eventually

sys.path[:0] = [str(ROOT / "scripts" / "docs"), str(ROOT / "bench"), str(ROOT / "scripts")]

import book  # noqa: E402
import links  # noqa: E402
import record  # noqa: E402
import reference  # noqa: E402
import release  # noqa: E402
import stable  # noqa: E402
import tables  # noqa: E402

# Stands in for cargo in a clone: provides exactly the requested programs, which have been built already.
CARGO = """#!/usr/bin/env bash
set -eu
[ "$1" != --version ] || { echo "cargo 99.0.0"; exit; }
[ "$1" = build ] && shift
mkdir -p target/release
while [ $# -gt 0 ]; do
  if [ "$1" = --bin ]; then ln -sf "$BUILT/$2" "target/release/$2"; shift; fi
  shift
done
"""
# The same commands, shortened: what takes minutes in the document takes seconds in the test.
SHORTER = [
    (r"client load (.*?)--duration \d+s", r"client load \1--warm-up 0s --duration 3s"),
    (r"(client scaling .*?)--duration \d+s", r"\1--duration 1s"),
    (r"--repeat \d+", "--repeat 2"),
    (r"--capacity \d+s", "--capacity 1s"),
    (r"--waits [\d.]+,", "--waits "),
    (r"^sleep \d+", "sleep 1"),
    (r"--requests \d+", "--requests 50"),
]


MARK = "-- that is what it printed --"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Clone:
    """A copy of the repository's files, and a shell that types what a document says."""

    def __init__(self, folder):
        self.folder = folder / "imagefleet"
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        home = folder / "cargo"
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "cargo").write_text(CARGO)
        (home / "bin" / "cargo").chmod(0o755)
        self.public, self.admin, self.serving = free_port(), free_port(), None
        own = {"CARGO_HOME": home, "BUILT": TARGET.resolve(), "CARGO_TARGET_DIR": "target"}
        own |= {"BALANCER_LISTEN": f"127.0.0.1:{self.public}", "BALANCER_ADMIN": f"127.0.0.1:{self.admin}"}
        self.env = os.environ | {name: str(value) for name, value in own.items()}

    def on_our_ports(self, text):
        return text.replace(":5000", f":{self.public}").replace(":9900", f":{self.admin}")

    def serve(self, text):
        """Starts a command that runs until Ctrl-C, and waits until it reports that it is ready."""
        command = ["bash", "-c", f"exec {text.strip()}"]
        self.serving = subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        said = []
        threading.Thread(target=lambda: said.extend(self.serving.stderr), daemon=True).start()
        eventually(lambda: any("imagefleet is ready" in line for line in said), 120, "imagefleet is ready")

    def type(self, text):
        """Output of a block, on standard output and on standard error; a command that fails ends it, except for a
        measurement that is not valid (3)."""
        script = "set -u -o pipefail\ntrap 'rc=$?; [ $rc = 3 ] || exit $rc' ERR\n" + self.on_our_ports(text)
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode in (0, 3), f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout, done.stderr

    def stop(self):
        if self.serving:
            self.serving.send_signal(signal.SIGTERM)
            self.serving.wait(60)


@pytest.fixture
def clone(tmp_path):
    made = Clone(tmp_path)
    yield made
    made.stop()


def follow(clone, document, shorten):
    """Types every block of a document and compares the output with what the document prints."""
    for block in blocks(ROOT / document):
        text = block.text
        for pattern, shorter in SHORTER if shorten else ():
            text = re.sub(pattern, shorter, text, flags=re.MULTILINE)
        if block.how == "serve":
            clone.serve(text)
        elif block.how == "internet":
            weights = DATA / "mobilenet_v2" / "model.safetensors"
            if weights.exists():
                clone.type(f"{text.strip()} --from {weights}\n")
        else:
            # A mark after each command that should print something separates its output from the rest.
            printed, errors = clone.type(re.sub(r"^(.*?\S.*?\s{3,}# .*)$", rf"\1\necho '{MARK}'", text, flags=re.MULTILINE))
            for expected, said in zip(block.expected(), printed.split(MARK), strict=False):
                wanted = re.sub(r"\s", "", clone.on_our_ports(expected))
                assert wanted in re.sub(r"\s", "", said + errors), f"{text}\nprints no {expected}:\n{said}\n{errors}"


@pytest.mark.timeout(300)
def test_the_readme_runs_as_printed(clone):
    follow(clone, "README.md", shorten=True)
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guide", ["api", "tls"])
def test_a_guide_runs_as_printed(clone, guide):
    follow(clone, f"docs/{guide}.md", shorten=True)


@pytest.mark.skipif(os.environ.get("IMAGEFLEET_DOCUMENTS") != "1", reason="the tutorial takes a minute: IMAGEFLEET_DOCUMENTS=1 types it")
@pytest.mark.timeout(600)
def test_the_tutorial_runs_as_printed(clone):
    follow(clone, "docs/tutorial.md", shorten=os.environ.get("IMAGEFLEET_TUTORIAL") != "1")


def test_nothing_that_the_commands_leave_behind_is_in_the_way_of_git(clone):
    clone.type("git init --quiet && git add . && git -c user.name=a -c user.email=b commit --quiet -m clone")
    clone.type("mkdir -p models/.downloads results/x target .venv && touch models/.downloads/a results/x/b kill.txt")
    assert clone.type("git status --short")[0] == ""


@pytest.fixture(scope="module")
def known_flags():
    """Every command of the three programs, with its flags."""
    return {command: names for program in reference.PROGRAMS for command, names in reference.flags(program).items()}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_only_commands_and_flags_that_there_are(path, known_flags):
    wrong = []
    for words in commands(path):
        command = (words[0],)
        for word in words[1:]:
            if (*command, word) not in known_flags:
                break
            command = (*command, word)
        until = words.index("--") if "--" in words else len(words)
        every = set().union(*(known_flags[command[:n]] for n in range(1, len(command) + 1)))
        given = [word.split("=")[0] for word in words[:until] if word.startswith("--")]
        wrong += [f"{' '.join(words)}: {flag}" for flag in given if flag not in every | {"--help", "--version"}]
    wrong += [name for name in scripts(path) if not (ROOT / name).is_file()]
    assert not wrong


def test_what_is_asked_about_the_digit_of_the_documents_names_the_model_that_reads_it():
    # Without a name the fleet's default model answers, which changes when another one is pulled.
    texts = [*documents(), *sorted((ROOT / "docs" / "runbook").glob("*.md")), ROOT / "examples" / "curl.sh", ROOT / "scripts" / "run.sh"]
    asked = re.compile(r"^.*\bcurl\b.*\b(?:seven|digit)\.png.*$|^ask .*\bseven\.png.*$", re.MULTILINE)
    lines = [(path.name, line) for path in texts for line in asked.findall(path.read_text())]
    assert len(lines) > 10
    assert [one for one in lines if "model=" not in one[1] and "/mnist" not in one[1]] == []


def test_reference_pages_are_what_the_code_says():
    differ = [path.name for path, text in reference.pages().items() if not path.exists() or path.read_text() != text]
    assert not differ, "python3 scripts/docs/reference.py"


def families(text):
    """Kind and help of each exposed family, by name."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.*?)\.?$", text, re.MULTILINE))
    return {name: (kind, helps[name]) for name, kind in kinds.items()}


def test_the_metrics_that_are_exposed_are_those_of_the_reference(start):
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", "models")
    # A balancer that follows its load, which exposes the most metrics.
    own = ("--spawn", "1..2", "--models", "models")
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *own)
    admin = balancer.wait_for(r"admin on (\S+)")
    eventually(lambda: "balancer_spawned_workers_min" in requests.get(f"{admin}/metrics", timeout=10).text, 60, "it looks at its load")
    for url, found in ((admin, reference.balancer_metrics()), (worker.url, reference.worker_metrics())):
        exposed = families(requests.get(f"{url}/metrics", timeout=10).text)
        expected = {name: (kind, about) for name, (kind, _, about) in found.items()}
        assert exposed.items() <= expected.items()
        # A family without a sample yet is not exposed; one without labels always has its sample.
        assert all(found[name][1] for name in expected.keys() - exposed.keys())


def test_every_link_leads_somewhere():
    assert [one for path in links.documents() for one in links.broken(path)] + list(links.left_out()) == []


def test_links_out_of_the_book_lead_to_the_repository():
    page = "[a](../bench/README.md#files) [b](policies.md) [c](https://example.org/x) [d](#here) ![e](page.png)"
    inside = "[b](policies.md) [c](https://example.org/x) [d](#here) ![e](page.png)"
    there = "https://example.org/repo/blob/main"
    assert book.rewrite(page, "tutorial.md", "https://example.org/repo") == f"[a]({there}/bench/README.md#files) {inside}"
    assert book.rewrite("[a](../../SECURITY.md)", "runbook/NoWorker.md", "https://example.org/repo") == f"[a]({there}/SECURITY.md)"
    assert book.rewrite(page, "tutorial.md", "") == f"a {inside}"


def test_every_figure_of_a_document_comes_from_the_results():
    done = subprocess.run([sys.executable, "bench/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_figure_that_is_typed_by_hand_is_found(tmp_path):
    page = ROOT / "docs" / "balancer.md"
    text = page.read_text()
    for sentence in ("It answers 12,345 requests per second.", "A GET costs 9.9 us.", "It is 3.2 times as fast, or 41 %."):
        found = list(tables.check_typed({page: f"{text}\n{sentence}\n"}))
        assert any("typed by hand" in one for one in found), sentence
    allowed = f"{text}\n`sleep 77s` and\n```sh\nsleep 78s\n```\n"
    assert not any("typed by hand" in one for one in tables.check_typed({page: allowed}))


def test_results_carry_where_they_come_from():
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        assert result["machine"]["cpu"] and result["machine"]["cores"] and result["command"], path.name
        assert re.fullmatch(r"[0-9a-f]{7,12}\+?", result["commit"]), path.name
        for figure in result["figures"]:
            low, high = figure["low"], figure["high"]
            assert low is None or low <= figure["median"] <= high, (path.name, figure)


def test_a_result_says_that_the_load_generator_fell_short():
    late, failed = {"cause": "generator", "text": "saturated"}, {"cause": "service", "text": "40 requests failed"}
    found = record.Result("fleet", "a command")
    found.judge([{"verdict": {"reasons": []}}, {"verdict": {"reasons": [failed]}}])
    assert "note" not in found.content
    found.judge([{"verdict": {"reasons": []}}, {"verdict": {"reasons": [late, failed]}}])
    assert found.content["note"] == "The load generator fell short in 1 of 2 runs (saturated)."


def test_a_kb_of_the_kernel_has_1024_bytes():
    assert record.megabytes(1000) == 1.024


def test_the_changelog_says_nothing_twice():
    lines = re.findall(r"^- .*(?:\n  .*)*", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [line for line in set(lines) if lines.count(line) > 1] == []


def test_what_a_release_had_is_gone_only_if_the_changelog_says_so(tmp_path):
    pages = tmp_path / "docs" / "reference"
    pages.mkdir(parents=True)
    git = lambda *words: subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *words], cwd=tmp_path, check=True)  # noqa: E731
    head = "| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n"
    row = "| `--{0} <N>` | `BALANCER_{1}` |  | something |\n"
    (pages / "balancer.md").write_text("# balancer\n\n" + head + row.format("old", "OLD") + row.format("kept", "KEPT"))
    (pages / "logs.md").write_text("# Log events\n\n## worker\n\n| level | message | fields |\n| --- | --- | --- |\n| info | it began |  |\n")
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("## [Unreleased]\n\n## [1.0.0] - 2030-01-01\n\n### Added\n\n- `--old`\n")
    git("init", "--quiet")
    assert stable.last_tag(tmp_path) is None
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    git("tag", "v1.0.0")
    git("tag", "v2.0.0-rc.1")
    assert (stable.last_tag(tmp_path), list(stable.gone(tmp_path, "v1.0.0"))) == ("v1.0.0", [])
    (pages / "balancer.md").write_text("# balancer\n\n" + head + row.format("kept", "KEPT"))
    (pages / "logs.md").write_text("# Log events\n\n## worker\n\n| level | message | fields |\n| --- | --- | --- |\n| info | it started |  |\n")
    changelog.write_text("## [Unreleased]\n\n### Removed\n\n- `BALANCER_OLD`\n\n" + changelog.read_text().split("\n", 2)[2])
    assert list(stable.gone(tmp_path, "v1.0.0")) == ["balancer: --old", "worker: it began"]
    changelog.write_text(changelog.read_text().replace("- `BALANCER_OLD`", "- `--old` (`BALANCER_OLD`); `it began` is `it started`"))
    assert list(stable.gone(tmp_path, "v1.0.0")) == []


def test_the_workflow_types_the_tutorial_too():
    assert "IMAGEFLEET_DOCUMENTS=1" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_a_release_sets_version_and_changelog_and_nothing_else(tmp_path):
    manifest = (ROOT / "Cargo.toml").read_text()
    made = release.bumped(manifest, "9.0.0")
    different = [pair for pair in zip(manifest.splitlines(), made.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(different) == 1 and different[0][1] == 'version = "9.0.0"'
    old = re.search(r'^version = "(.*)"', manifest, re.MULTILINE)[1]
    lock = (ROOT / "Cargo.lock").read_text()
    different = [pair for pair in zip(lock.splitlines(), release.relocked(lock, old, "9.0.0").splitlines(), strict=True) if pair[0] != pair[1]]
    members = re.search(r"^members = \[(.*)\]", manifest, re.MULTILINE)[1].count(",") + 1
    assert len(different) == members and {pair[1] for pair in different} == {'version = "9.0.0"'}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    labelled = release.labelled(dockerfile, old, "9.0.0")
    different = [pair for pair in zip(dockerfile.splitlines(), labelled.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [pair[1] for pair in different] == ["ARG VERSION=9.0.0"]
    # Right after a release the section is empty.
    something = (ROOT / "CHANGELOG.md").read_text().replace("## [Unreleased]\n", "## [Unreleased]\n\n### Fixed\n\n- Something.\n", 1)
    changelog = release.dated(something, "9.0.0", "2030-01-02")
    assert "## [Unreleased]\n\n## [9.0.0] - 2030-01-02\n" in changelog
    assert [one for one in tables.check_typed({ROOT / "CHANGELOG.md": changelog}) if "CHANGELOG" in one] == []
    with pytest.raises(SystemExit, match="does not come after"):
        release.bumped(manifest, "0.0.1")
    with pytest.raises(SystemExit, match="nothing under"):
        release.dated(changelog, "9.1.0", "2030-01-03")
    with pytest.raises(SystemExit, match="not a version"):
        release.bumped(manifest, "1.0")
