"""What runs where the project is hosted, checked as far as possible elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fleet import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
TOOLS = Path(sys.executable).parent
# Files that say which versions a part of the project is built from, and the Dependabot ecosystem of each.
MANIFESTS = {
    "Cargo.lock": "cargo",
    "rust-toolchain.toml": "rust-toolchain",
    "package-lock.json": "npm",
    "requirements.txt": "pip",
    "Dockerfile": "docker",
    "compose.yaml": "docker-compose",
}


def succeeds(*command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing():
    if not (actionlint := shutil.which("actionlint")):
        pytest.skip("SKIPPED: no actionlint (go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12)")
    succeeds(actionlint, *WORKFLOWS)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_follow_the_schema(workflow):
    succeeds(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)


def test_updates_of_dependencies_follow_the_schema_and_know_every_folder():
    succeeds(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.dependabot", GITHUB / "dependabot.yml")
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    followed = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    there = {
        (ecosystem, os.path.normpath(f"/{path.parent}"))
        for path in map(Path, listed)
        for pattern, ecosystem in MANIFESTS.items()
        if path.match(pattern)
    }
    assert followed == there | {("github-actions", "/")}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_of_others_are_pinned_and_may_only_what_they_must(workflow):
    text = workflow.read_text()
    uses = re.findall(r"uses: (.+)", text)
    assert uses and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses), uses
    parsed = yaml.safe_load(text)
    assert parsed["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in parsed["jobs"].values())
    for job in parsed["jobs"].values():
        for step in job["steps"]:
            # A name or a title from outside must not become a part of a command.
            assert "${{" not in step.get("run", "")


def test_the_scripts_that_workflows_run_are_there():
    for workflow in WORKFLOWS:
        for script in re.findall(r"\./(scripts/[\w.-]+|\.ci/run)", workflow.read_text()):
            assert (ROOT / script).stat().st_mode & 0o111, script
