"""The parts of a release, assembled from programs that are built already."""

import functools
import os
import re
import shutil
import subprocess
import tarfile

import pytest

from fleet import ROOT

PROGRAMS = ("balancer", "worker", "client")
# Offset and value of the field of an ELF header that names the machine.
MACHINE, ARM64 = 18, (183).to_bytes(2, "little")

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="SKIPPED: no dpkg-deb here")


@pytest.fixture
def programs(tmp_path):
    """Small programs in place of the real ones."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in PROGRAMS:
        shutil.copy("/bin/true", folder / name)
    return folder


def package(programs, out, **environment):
    environment = {**os.environ, "PROGRAMS": str(programs), "OUT": str(out), "VERSION": "1.2.3", **environment}
    command = [ROOT / "scripts" / "package.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path for path in out.iterdir()}


def field(deb, name):
    return subprocess.run(["dpkg-deb", "--field", deb, name], capture_output=True, text=True, check=True).stdout.strip()


def contents(deb):
    listed = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=5) for line in listed.splitlines()]
    assert {line[1] for line in lines} == {"root/root"}
    return {line[5].split(" -> ")[0].removeprefix(".") for line in lines}


def test_the_archive_has_all_that_an_installation_needs(programs, tmp_path):
    made = package(programs, tmp_path / "out")
    with tarfile.open(made["imagefleet-1.2.3-x86_64-linux.tar.gz"]) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
        archive.extractall(tmp_path, filter="data")
    assert {f"bin/{name}" for name in PROGRAMS} <= set(members)
    assert all(member.uid == 0 for member in members.values())
    # Nothing that a download or a training has left in models/ is included.
    assert {name.split("/")[1] for name in members if name.startswith("models/")} == {"iris_model", "mnist"}
    folder = tmp_path / "imagefleet-1.2.3-x86_64-linux"
    for role in PROGRAMS:
        command = [folder / "scripts" / "install.sh", role, "--dry-run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "cargo" not in done.stdout and f"bin/{role} /opt/imagefleet/bin/{role}" in done.stdout


@needs_dpkg
def test_packages_have_the_service_the_models_and_what_they_depend_on(programs, tmp_path):
    made = package(programs, tmp_path / "out")
    for role in PROGRAMS:
        deb = made[f"imagefleet-{role}_1.2.3_amd64.deb"]
        assert field(deb, "Depends").startswith("libc6 (>= 2.")
        files = contents(deb)
        assert {f"/opt/imagefleet/bin/{role}", f"/usr/bin/imagefleet-{role}"} <= files
        units = {file.rpartition("/")[2] for file in files if file.startswith("/lib/systemd/system/imagefleet")}
        wanted = {"balancer": {"service", "socket"}, "worker": {"service"}, "client": set()}[role]
        assert units == {f"imagefleet-{role}.{kind}" for kind in wanted}
    balancer = contents(made["imagefleet-balancer_1.2.3_amd64.deb"])
    documents = "/usr/share/doc/imagefleet-balancer"
    guide, runbook = ((ROOT / "docs" / name).read_text() for name in ("machines.md", "runbook/README.md"))
    assert f"cd {documents} " in guide and f"cd {documents} " in runbook
    printed = re.findall(r"(?:sudo cp |image=@|`)((?:prometheus|grafana)/\S+\.\w+|\w+\.png)", guide + runbook)
    assert {"prometheus/rules.yml", "grafana/dashboards/imagefleet.json", "seven.png"} <= set(printed)
    assert {f"{documents}/{name}" for name in printed} <= balancer
    worker = contents(made["imagefleet-worker_1.2.3_amd64.deb"])
    assert "/var/lib/imagefleet/models/mnist/1/weights.safetensors" in worker
    assert not any("mobilenet" in file for file in worker)


@needs_dpkg
def test_the_machine_is_that_of_the_programs(programs, tmp_path):
    for name in PROGRAMS:
        with (programs / name).open("r+b") as file:
            file.seek(MACHINE)
            file.write(ARM64)
    made = package(programs, tmp_path / "out")
    assert "imagefleet-1.2.3-aarch64-linux.tar.gz" in made
    assert field(made["imagefleet-worker_1.2.3_arm64.deb"], "Architecture") == "arm64"


def test_programs_of_different_machines_make_no_release(programs, tmp_path):
    with (programs / "worker").open("r+b") as file:
        file.seek(MACHINE)
        file.write(ARM64)
    with pytest.raises(AssertionError, match="different machines"):
        package(programs, tmp_path / "out")


@needs_dpkg
def test_a_version_before_a_release_is_an_older_package(programs, tmp_path):
    deb = package(programs, tmp_path / "out", VERSION="1.2.3-rc1")["imagefleet-client_1.2.3~rc1_amd64.deb"]
    compare = ["dpkg", "--compare-versions", field(deb, "Version"), "lt", "1.2.3"]
    assert subprocess.run(compare, check=False).returncode == 0


def test_the_same_programs_make_the_same_files(programs, tmp_path):
    make = functools.partial(package, programs, SOURCE_DATE_EPOCH="1700000000")
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    assert set(first) == set(second)
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


def test_release_notes_are_those_of_the_version(tmp_path):
    tree = tmp_path / "tree"
    (tree / "scripts").mkdir(parents=True)
    for name in ("release-notes.sh", "toolchain.sh"):
        shutil.copy(ROOT / "scripts" / name, tree / "scripts")
    (tree / "Cargo.toml").write_text('[workspace.package]\nversion = "1.2.3"\n')
    later, this, before = "## [Unreleased]\n\n- later\n\n", "## [1.2.3] - 2026-12-01\n\n- this [a](docs/a.md#b) [c](https://c.org/docs/)\n\n", "## [1.2.2]\n"
    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n{later}{this}{before}")

    def notes(version, **variables):
        command = [tree / "scripts" / "release-notes.sh", version]
        env = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | variables
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert notes("1.2.3").stdout.strip() == "- this [a](docs/a.md#b) [c](https://c.org/docs/)"
    there = "https://github.com/o/r/blob/v1.2.3"
    assert notes("1.2.3", GITHUB_REPOSITORY="o/r").stdout.strip() == f"- this [a]({there}/docs/a.md#b) [c](https://c.org/docs/)"
    assert "Cargo.toml has version 1.2.3" in notes("1.2.2").stderr
    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n{later}")
    assert "no section [1.2.3]" in notes("1.2.3").stderr
