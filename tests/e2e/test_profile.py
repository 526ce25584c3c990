"""CloudLab's profile.py describes the same slice as the program's own generator."""

import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from conftest import TARGET
from fleet import DATA, ROOT

RUN = pathlib.Path(__file__).with_name("run_profile.py")
SCHEMA = DATA / "rspec3-xsd" / "request.xsd"


def profile(*arguments):
    """The request that the profile writes with these parameters."""
    command = [sys.executable, RUN, ROOT / "profile.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def steps(request, tmp_path):
    """The commands that build a request here: everything about a slice, without ids that may differ."""
    file = tmp_path / "slice.rspec"
    file.write_text(request)
    command = [TARGET / "client", "slice", "up", "--dry-run", "--rspec", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def generated(*arguments):
    command = [TARGET / "client", "slice", "rspec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "of_profile, of_client",
    [
        ([], []),
        (["--workers", "1"], ["--workers", "1"]),
        (
            ["--workers", "9", "--capacity", "100", "--latency", "2"],
            ["--workers", "9", "--capacity", "100mbps", "--latency", "2ms"],
        ),
    ],
)
def test_profile_and_generator_describe_the_same_slice(of_profile, of_client, tmp_path):
    written = steps(profile(*of_profile), tmp_path)
    assert written == steps(generated(*of_client), tmp_path)
    assert len(written) > 10


def test_every_node_installs_its_role_from_the_repository():
    request = profile("--workers", "2")
    script = "/local/repository/scripts/install.sh"
    assert f"{script} balancer --worker 10.10.1.1:8501 --worker 10.10.2.1:8501" in request
    assert request.count(f'{script} worker"') == 2
    assert f'{script} client"' in request


def test_only_the_balancer_has_an_address_on_the_internet():
    rspec, emulab = "{http://www.geni.net/resources/rspec/3}", "{http://www.protogeni.net/resources/rspec/ext/emulab/1}"
    for request in (profile(), (ROOT / "rspec" / "image_class.rspec").read_text()):
        nodes = ElementTree.fromstring(request).findall(f"{rspec}node")
        public = [node.get("client_id") for node in nodes if node.find(f"{emulab}routable_control_ip") is not None]
        assert public == ["balancer"] and len(nodes) == 6


def test_physical_nodes_can_be_asked_for():
    request = profile("--hardware", "m510")
    assert request.count('<hardware_type name="m510"/>') == 6
    assert "emulab-xen" not in request


def test_impossible_parameters_are_reported():
    command = [sys.executable, RUN, ROOT / "profile.py", "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Between 1 and 250 workers fit" in done.stdout + done.stderr


def test_the_request_is_valid_against_the_schema():
    if not SCHEMA.exists():
        pytest.skip("SKIPPED: IMAGEFLEET_TEST_DATA has no rspec3-xsd/request.xsd")
    etree = pytest.importorskip("lxml.etree")
    schema = etree.XMLSchema(file=str(SCHEMA))
    request = profile("--workers", "3", "--capacity", "10", "--latency", "1")
    schema.assertValid(etree.fromstring(request.encode()))
