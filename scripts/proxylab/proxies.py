"""The balancer, HAProxy and nginx as processes with one thread each, in front of the same upstreams.

All three are set up as a careful operator would for this work: random choice, keep-alive on
both sides, active health checks where the program has them, one retry on another server. The
benchmark and the fault run therefore compare the programs and not their defaults.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / os.environ.get("IMAGEFLEET_PROFILE", "release")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def cpu_seconds(pids):
    """User and system time of the processes and all threads that they have now, to the nanosecond."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def kernel_seconds(pids):
    """System time of the processes, and user and system time together, as the kernel counts them in clock ticks."""
    times = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] for pid in pids]
    user, system = (sum(int(time[place]) for time in times) / os.sysconf("SC_CLK_TCK") for place in (0, 1))
    return system, user + system


class Proxy:
    """One program in front of `upstreams`; subclasses write its configuration."""

    name = ""

    def __init__(self, folder, upstreams, pin=None):
        self.folder, self.upstreams, self.pin = Path(folder) / self.name, list(upstreams), pin
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.processes = []

    def spawn(self, *command):
        prefix = ["taskset", "-c", str(self.pin)] if self.pin is not None else []
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [*prefix, *map(str, command)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
        )
        self.processes.append(process)
        return process

    def wait_ready(self):
        wait_until(lambda: answers(f"http://{self.address}/v2/health/ready"), 20, f"{self.name} is ready")
        return self

    def pids(self):
        return [process.pid for process in self.processes if process.poll() is None]

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Imagefleet(Proxy):
    name = "imagefleet"
    extra = ()
    # The folder of its program; `None` for the one that `cargo build` made.
    programs = None

    def start(self):
        self.admin = f"127.0.0.1:{free_port()}"
        self._launch(self.admin)
        return self.wait_ready()

    def _launch(self, admin):
        workers = [part for upstream in self.upstreams for part in ("--worker", upstream)]
        return self.spawn(
            (self.programs or BIN) / "balancer",
            "--listen",
            self.address,
            "--admin",
            admin,
            "--threads",
            1,
            *workers,
            *self.extra,
        )

    def drain(self, upstream):
        request = urllib.request.Request(f"http://{self.admin}/fleet/{upstream}/drain", method="POST")
        urllib.request.urlopen(request, timeout=2).close()

    def restart(self):
        """A second process shares the port; when it is ready, the first one drains."""
        old, admin = self.processes[-1], f"127.0.0.1:{free_port()}"
        self._launch(admin)
        wait_until(lambda: answers(f"http://{admin}/v2/health/ready"), 10, "the new balancer is ready")
        self.admin = admin
        old.terminate()
        old.wait(40)


class Haproxy(Proxy):
    name, balance = "haproxy", "random"

    def start(self):
        servers = "\n".join(
            f"  server s{i} {upstream} check inter 2s fall 3 rise 2 observe layer7 error-limit 5 on-error mark-down"
            for i, upstream in enumerate(self.upstreams)
        )
        (self.folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  stats socket {self.folder}/admin.sock mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 5s
  timeout http-keep-alive 30s
  option http-keep-alive
  http-reuse always
  retries 1
  retry-on conn-failure empty-response response-timeout 500
  option redispatch 1
frontend front
  bind {self.address}
  default_backend fleet
backend fleet
  balance {self.balance}
  option httpchk GET /v2/health/ready
{servers}
""")
        self.spawn("haproxy", "-W", "-db", "-f", self.folder / "haproxy.cfg")
        return self.wait_ready()

    def pids(self):
        return [pid for master in super().pids() for pid in children(master)]

    def _command(self, line):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / "admin.sock"))
            client.sendall(line.encode() + b"\n")
            client.recv(1000)

    def drain(self, upstream):
        self._command(f"set server fleet/s{self.upstreams.index(upstream)} state drain")

    def restart(self):
        before = self.pids()
        self.processes[-1].send_signal(signal.SIGUSR2)
        wait_until(lambda: set(self.pids()) - set(before), 10, "a new HAProxy worker")


class Nginx(Proxy):
    name, balance, connections = "nginx", "random", 4096
    down = ()

    def _configure(self):
        servers = "\n".join(
            f"    server {u} max_fails=5 fail_timeout=10s{' down' if u in self.down else ''};"
            for u in self.upstreams
        )
        (self.folder / "nginx.conf").write_text(f"""
worker_processes 1;
pid {self.folder}/pid;
error_log {self.folder}/error.log crit;
events {{ worker_connections {self.connections}; }}
http {{
  access_log off;
  keepalive_requests 10000000;
  client_body_buffer_size 64k;
  client_body_temp_path {self.folder}/body;
  proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
  upstream fleet {{
    {self.balance};
{servers}
    keepalive 128;
    keepalive_requests 10000000;
  }}
  server {{
    listen {self.address};
    location / {{
      proxy_pass http://fleet;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_connect_timeout 1s;
      proxy_read_timeout 5s;
      proxy_next_upstream error timeout http_500 non_idempotent;
      proxy_next_upstream_tries 2;
    }}
  }}
}}
""")

    def start(self):
        self._configure()
        self.spawn("nginx", "-c", self.folder / "nginx.conf", "-g", "daemon off;")
        return self.wait_ready()

    def pids(self):
        return [pid for master in super().pids() for pid in children(master)]

    def drain(self, upstream):
        self.down = (*self.down, upstream)
        self._configure()
        self.restart()

    def restart(self):
        before = self.pids()
        self.processes[-1].send_signal(signal.SIGHUP)
        wait_until(lambda: set(self.pids()) - set(before), 10, "a new nginx worker")


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def trivial_upstreams(folder, ports, pin=None):
    """An nginx that answers every request immediately, including the probes of all three proxies."""
    folder = Path(folder) / "upstream"
    folder.mkdir(parents=True, exist_ok=True)
    listens = "\n".join(f"    listen 127.0.0.1:{port};" for port in ports)
    index = '[{"name":"m","version":"1","state":"READY","reason":""}]'
    (folder / "nginx.conf").write_text(f"""
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
{listens}
    default_type application/json;
    location = /v2/repository/index {{ return 200 '{index}'; }}
    location / {{ return 200 '"Egyptian cat"\\n'; }}
  }}
}}
""")
    prefix = ["taskset", "-c", str(pin)] if pin is not None else []
    command = [*prefix, "nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    process = subprocess.Popen(command, cwd=folder)
    wait_until(lambda: answers(f"http://127.0.0.1:{ports[0]}/v2/health/ready"), 10, "the upstream answers")
    return process


def run(main):
    """Runs a measurement, and reports a program that failed in one line."""
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed: {error.stderr or error}")


def version(command):
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    return re.search(r"\d+\.\d+\.\d+", output.stdout + output.stderr)[0]
