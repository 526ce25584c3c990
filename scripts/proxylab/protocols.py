"""What a small GET costs the balancer, by the protocol of its client, in one interleaved run.

    python3 scripts/proxylab/protocols.py                a minute and a half; figures go to bench/results
    python3 scripts/proxylab/protocols.py --rounds 1     a quick look

Two single-threaded balancers take them, one with a certificate; h2load (package nghttp2-client) runs on the other core.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench import Result, command_line
from proxies import Imagefleet, answers, cpu_seconds, free_port, run, trivial_upstreams, wait_until

CLIENTS, STREAMS = 8, 8
# The flags of h2load for each protocol, and whether it is encrypted.
PROTOCOLS = {
    "HTTP/1.1": (["--h1", f"--clients={CLIENTS * STREAMS}"], False),
    "HTTP/1.1 over TLS": (["--h1", f"--clients={CLIENTS * STREAMS}"], True),
    f"h2c, {CLIENTS} connections of {STREAMS} streams": ([f"--clients={CLIENTS}", f"--max-concurrent-streams={STREAMS}"], False),
    "HTTP/2 over TLS": ([f"--clients={CLIENTS}", f"--max-concurrent-streams={STREAMS}"], True),
}


class Secure(Imagefleet):
    name = "secure"

    def wait_ready(self):
        wait_until(lambda: answers(f"http://{self.admin}/v2/health/ready"), 20, f"{self.name} is ready")
        return self


def certificate(folder):
    names = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-out", names[0], "-keyout", names[1]]
    subprocess.run(command, check=True, capture_output=True)
    return names


def drive(proxy, flags, address, seconds):
    """CPU microseconds per request of one run of h2load."""
    before = cpu_seconds(proxy.pids())
    command = ["taskset", "-c", "1", "h2load", "--threads=1", f"--duration={seconds}", "--warm-up-time=1", *flags, address]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(proxy.pids()) - before
    done, failed = (int(re.search(rf"(\d+) {word}", output)[1]) for word in ("succeeded", "failed"))
    if failed or not done:
        raise RuntimeError(f"{address}: {output}")
    # The proxy's time includes the second of warm-up, which h2load does not count.
    return spent / (done * (seconds + 1) / seconds) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    found = {name: [] for name in PROTOCOLS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cert, key = certificate(folder)
        Imagefleet.extra, Secure.extra = ["--h2c"], ["--tls-cert", cert, "--tls-key", key]
        ports = [free_port(), free_port()]
        upstream = trivial_upstreams(folder, ports, pin=1)
        proxies = {kind: kind(folder, [f"127.0.0.1:{port}" for port in ports], pin=0) for kind in (Imagefleet, Secure)}
        try:
            for proxy in proxies.values():
                proxy.start()
            for _ in range(options.rounds):
                for protocol, (flags, is_secure) in PROTOCOLS.items():
                    proxy = proxies[Secure if is_secure else Imagefleet]
                    address = f"{'https' if is_secure else 'http'}://{proxy.address}/v2/models/m"
                    found[protocol].append(drive(proxy, flags, address, options.seconds))
        finally:
            for proxy in proxies.values():
                proxy.stop()
            upstream.terminate()
            upstream.wait()
    result = Result("client-protocols", command_line(), threads=1, rounds=options.rounds)
    for protocol, values in found.items():
        print(f"{protocol}: {statistics.median(values):.1f} us per request")
        result.add("processor time per small GET", protocol, "µs", values)
    result.write()


if __name__ == "__main__":
    run(main)
