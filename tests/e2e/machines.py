"""Machines for the tests: Debian systems that boot their own systemd, linked as an RSpec says.

A machine is a systemd-nspawn container over a Debian that debootstrap creates once; everything written to
it is discarded with it. It has its own network, which reaches nothing but its links. Machines are entered
with `nsenter`, so neither machined nor a bus is needed.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import requests
from engine import inside, run
from fleet import ROOT, eventually

NEEDED = ("debootstrap", "systemd-nspawn", "nsenter", "ip", "mount")
PACKAGES = "systemd,systemd-sysv,init-system-helpers,iproute2,sudo,passwd"
SUITE = "bookworm"
BASE = Path(os.environ.get("IMAGEFLEET_MACHINES_BASE", f"/var/cache/imagefleet/{SUITE}"))
RSPEC = {"r": "http://www.geni.net/resources/rspec/3"}
LIMIT = 120  # seconds for a command on a machine
RUN = f"{os.getpid() % 100000}"


def give_up(reason):
    """Skips the test, or fails it if machines were requested explicitly."""
    if os.environ.get("IMAGEFLEET_MACHINES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(f"SKIPPED: {reason}")


def skip_without_machines():
    """Gives up loudly if something that machines need is missing."""
    if os.environ.get("IMAGEFLEET_MACHINES") == "0":
        pytest.skip("SKIPPED: no machines are wanted (IMAGEFLEET_MACHINES=0)")
    if os.geteuid() != 0:
        give_up("only root can boot machines")
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        give_up(f"machines need {', '.join(missing)} (Debian: apt install debootstrap systemd-container)")


def base():
    """The Debian that machines start from; created once, in about a minute."""
    stamp = BASE / "etc" / "imagefleet-packages"
    if stamp.exists() and stamp.read_text() == PACKAGES:
        return BASE
    BASE.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=BASE.parent))
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(fresh), mirror()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(fresh)
        give_up(f"debootstrap makes no Debian here: {done.stdout[-300:]}{done.stderr[-300:]}")
    fresh.chmod(0o755)
    (fresh / "etc" / "imagefleet-packages").write_text(PACKAGES)
    shutil.rmtree(BASE, ignore_errors=True)
    fresh.rename(BASE)
    return BASE


def mirror():
    """The mirror that this machine gets its own packages from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    sites = [site for site in listed.split() if "debian.org/debian" in site and "security" not in site]
    return sites[0] if sites else "http://deb.debian.org/debian"


class Machine:
    """A booted Debian."""

    def __init__(self, name, folder, shared):
        self.name, self.namespace = name, f"fleet-{RUN}-{name}"
        self._folder = folder / name
        self._root = self._folder / "root"
        self._log = self._folder / "console.log"
        for part in ("upper", "work", "root"):
            (self._folder / part).mkdir(parents=True)
        layers = f"lowerdir={base()},upperdir={self._folder}/upper,workdir={self._folder}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self._root)
        # Workers join under the hostnames of their machines; the base has that of the machine that created it.
        (self._root / "etc" / "hostname").write_text(f"{name}\n")
        command = ["systemd-nspawn", "--boot", f"--directory={self._root}", f"--machine={self.namespace}"]
        command += ["--private-network", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off"]
        command += ["--console=read-only", f"--bind-ro={shared}:/media"]
        # Each machine has its own control group, below the root of the hierarchy.
        joined = f"{join_group(self.namespace)} exec {shlex.join(command)}"
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1" if is_unified() else "0"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", joined], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._leader = eventually(self._find_leader, 30, f"{name} starts")
            run("ip", "netns", "attach", self.namespace, self._leader)
            eventually(self._is_up, 60, f"{name} has booted")
        except BaseException:
            self.close()
            raise

    def _find_leader(self):
        """The process that has PID 1 on the machine."""
        if self._process.poll() is not None:
            give_up(f"no machine boots here: {self._log.read_text()[-600:]}")
        for child in children(self._process.pid):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text()
                [numbers] = [line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")]
                # It exists a moment before it has its own network, and until then is in the host's.
                if len(numbers) > 1 and numbers[-1] == "1" and has_own_network(child):
                    return child
        return None

    def _is_up(self):
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        state = self.attempt("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    def enter(self, *command):
        """The command line that runs a command on this machine, as root."""
        namespaces = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        namespaces += ["--root", "--wd"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [*namespaces, "env", "--ignore-environment", path, "HOME=/root", "LANG=C.UTF-8", *map(str, command)]

    def attempt(self, *command, limit=LIMIT):
        how = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": limit}
        return subprocess.run(self.enter(*command), **how, check=False)

    def run(self, *command, limit=LIMIT):
        """The output of a command that must succeed."""
        done = self.attempt(*command, limit=limit)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def write(self, path, text):
        self.run("sh", "-c", f"mkdir -p $(dirname {path}) && printf %s {shlex.quote(text)} >{path}")

    def process(self, service):
        """The PID of a service's process, as seen on the machine; 0 if there is none."""
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", service))

    def close(self):
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        subprocess.run(["umount", "--lazy", self._root], check=False)
        leave_group(self.namespace)
        shutil.rmtree(self._folder, ignore_errors=True)


def has_own_network(process):
    return os.readlink(f"/proc/{process}/ns/net") != os.readlink("/proc/self/ns/net")


def is_unified():
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def groups(name):
    """The folders of a control group in the hierarchies that systemd itself needs."""
    roots = ["/sys/fs/cgroup"] if is_unified() else ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"]
    return [Path(root) / name for root in roots if Path(root).is_dir()]


def join_group(name):
    return " ".join(f"mkdir -p {group} && echo $$ >{group}/cgroup.procs;" for group in groups(name))


def leave_group(name):
    for group in groups(name):
        for folder in sorted(group.rglob("*/"), reverse=True) + [group]:
            with contextlib.suppress(OSError):
                folder.rmdir()


def children(process):
    """All descendants of a process."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def release(programs, out, version, **environment):
    """Packs programs as a release, and also extracts its archive."""
    # The packages are discarded, so they need not be small.
    environment = {**os.environ, "DPKG_DEB_COMPRESSOR_LEVEL": "0", "GZIP": "-1", **environment}
    environment |= {"PROGRAMS": str(programs), "OUT": str(out), "VERSION": version}
    run(ROOT / "scripts" / "package.sh", env=environment)
    run("tar", "--extract", "--gzip", f"--file={out}/{archive(version)}.tar.gz", f"--directory={out}")
    return out / archive(version)


def archive(version):
    return f"imagefleet-{version}-{os.uname().machine}-linux"


def deb(role, version):
    """Path of a role's Debian package for this architecture, as the machines see it."""
    cpu = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    return f"/media/imagefleet-{role}_{version}_{cpu}.deb"


def two_releases(programs, out):
    """Releases 1.0.0, and 1.1.0 with different program bytes and another version of a model."""
    first = release(programs, out, "1.0.0")
    later = out / "later"
    later.mkdir()
    for path in (first / "bin").iterdir():
        shutil.copy(path, later)
        with (later / path.name).open("ab") as program:
            program.write(b"a later build")
    # Stripping would remove the added bytes again.
    models = release(later, out, "1.1.0", STRIP="false") / "models" / "iris_model"
    shutil.copytree(models / "1", models / "2")


class Slice:
    """The nodes of an RSpec as machines, with its addresses and links, and their install commands."""

    def __init__(self, rspec, folder, shared):
        tree = ElementTree.parse(rspec)
        self._rspec, self._commands, self.machines, ends = rspec, {}, {}, {}
        try:
            nodes = tree.findall("r:node", RSPEC)
            boot([node.get("client_id") for node in nodes], folder, shared, self.machines)
            for node in nodes:
                name = node.get("client_id")
                [execute] = node.findall("r:services/r:execute", RSPEC)
                self._commands[name] = execute.get("command")
                for interface in node.findall("r:interface", RSPEC):
                    ends[interface.get("client_id")] = name, interface.find("r:ip", RSPEC).get("address")
            for number, link in enumerate(tree.findall("r:link", RSPEC)):
                pair = [ends[end.get("client_id")] for end in link.findall("r:interface_ref", RSPEC)]
                self._join(number, pair)
        except BaseException:
            self.close()
            raise
        self.hub = self.machines["balancer"]
        self.client = self.machines["client"]
        # In the order of the RSpec, whichever booted first.
        names = [node.get("client_id") for node in nodes]
        self.workers = [self.machines[name] for name in names if name.startswith("server")]
        # As in the experiment: the client's end of its link, and from it the balancer's.
        client_link = [address for name, address in ends.values() if name == "client"][0]
        self.url = f"http://{client_link.rpartition('.')[0]}.1:5000"

    def _join(self, number, pair):
        (one, one_address), (other, other_address) = pair
        namespaces = [self.machines[name].namespace for name in (one, other)]
        port = f"link{number}"
        peer = ["type", "veth", "peer", "name", port, "netns", namespaces[1]]
        run("ip", "-n", namespaces[0], "link", "add", port, *peer)
        for namespace, address in zip(namespaces, (one_address, other_address)):
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", port)
            run("ip", "-n", namespace, "link", "set", port, "up")

    def install(self, version):
        """Runs the RSpec's command on every machine, with the sources where its install service puts them."""
        for name, machine in self.machines.items():
            machine.run("mkdir", "-p", "/local/source")
            machine.run("cp", "-R", f"/media/{archive(version)}", "/local/source/imagefleet")
            machine.write("/local/source/imagefleet/rspec/image_class.rspec", self._rspec.read_text())
            # There is no internet, and photos do not matter here.
            machine.run("sh", "-c", self._commands[name].replace("$it worker", "$it worker --no-pull"))
        self.wait_for_all()

    def upgrade(self, machine, version, *arguments):
        """Runs the script of another release on a machine."""
        return machine.run(f"/media/{archive(version)}/scripts/install.sh", *arguments)

    def endpoints(self):
        """The balancer's view of its workers."""
        with inside(self.hub.namespace):
            return requests.get("http://127.0.0.1:9900/fleet.json", timeout=10).json()["endpoints"]

    def wait_for_all(self):
        """Waits until every worker takes requests."""
        seen = {}

        def are_available():
            with contextlib.suppress(OSError):
                seen["last"] = [(endpoint["name"], endpoint["state"]) for endpoint in self.endpoints()]
                return [state for _, state in seen["last"]] == ["available"] * len(self.workers)
            return False

        try:
            eventually(are_available, 60, "every worker takes requests")
        except AssertionError:
            services = {
                machine.name: machine.attempt("journalctl", "--no-pager", "--lines=15", "--unit=imagefleet-*").stdout
                for machine in [self.hub, *self.workers]
            }
            said = "\n".join(f"{name}:\n{lines}" for name, lines in services.items())
            raise AssertionError(f"not every worker takes requests: {seen}\n{said}") from None

    def ask(self, picture):
        """The answer to an upload from the client's machine."""
        with inside(self.client.namespace):
            return requests.post(f"{self.url}/submit", files={"image": picture}, timeout=30)

    def close(self):
        for machine in self.machines.values():
            machine.close()


def boot(names, folder, shared, machines):
    """Boots all machines at the same time; `machines` gets those that come up, even if others fail."""
    base()
    failures = []

    def one(name):
        try:
            machines[name] = Machine(name, folder, shared)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class Load:
    """`client load` on the client's machine, for as long as a `with` block lasts.

    Each request has its own connection unless told otherwise: HTTP/1.1 lets the service close a kept
    connection at the moment it is used again, and this client does not retry.
    """

    def __init__(self, fleet, rate=300, flags=("--no-keep-alive",)):
        self._fleet, self._rate, self._flags, self.summary = fleet, rate, flags, None
        self._number = f"/tmp/load-{time.monotonic_ns()}"

    def __enter__(self):
        command = ["imagefleet-client", "load", "--target", self._fleet.url, "--rate", self._rate, "--duration", "10m"]
        command += ["--warm-up", "0s", "--workload", "iris", "--json", "--out", self._number]
        command += self._flags
        self._process = subprocess.Popen(
            self._fleet.client.enter(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.wait(100)
        return self

    def __exit__(self, *failure):
        # The signal goes to the client itself, not to the process that entered its machine.
        for child in [*children(self._process.pid), self._process.pid]:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().startswith(("client", "imagefleet")):
                    os.kill(child, 15)
        said, complaints = self._process.communicate(timeout=60)
        if failure[0] is None:
            assert said, complaints
            self.summary = json.loads(said)

    def answered(self):
        """Number of requests that the balancer has answered since it started."""
        for line in metrics(self._fleet.hub).splitlines():
            if line.startswith('balancer_requests_total{outcome="answered"}'):
                return float(line.split()[1])
        return 0

    def wait(self, count):
        """Waits until `count` more requests are answered, all by the same balancer."""

        def answered():
            with contextlib.suppress(OSError):
                return self.answered()
            return None

        before = eventually(lambda: answered() is not None and [answered()], 60, "a balancer answers")[0] or 0
        eventually(lambda: (answered() or 0) >= before + count, 60, "answers go on")

    def lost(self):
        """Outcomes of the requests that were not answered with 200."""
        return {outcome: count for outcome, count in self.summary["outcomes"].items() if outcome != "200"}


def metrics(machine):
    with inside(machine.namespace):
        return requests.get("http://127.0.0.1:9900/metrics", timeout=10).text
