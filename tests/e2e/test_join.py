"""Workers that join a balancer by themselves: real programs, real signals."""

import subprocess
import threading

import pytest
import requests

from fleet import ROOT, eventually
from pictures import digit, encode

PICTURE = encode(digit(7))


@pytest.fixture
def token(tmp_path):
    """A file with a token."""
    file = tmp_path / "join.token"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    file.chmod(0o600)
    return file


def balancer(start, token, listen="127.0.0.1:0"):
    """A balancer without workers, which lets them join."""
    started = start(
        "balancer", "--listen", listen, "--admin", "127.0.0.1:0", "--accept-joins", "--join-token-file", token
    )
    started.admin = f"http://{started.wait_for('admin on (?:http://)?(.*)')}"
    return started


def worker(start, balancer, token, name):
    """A worker that joins under a name."""
    command = ["serve", "--listen", "127.0.0.1:0", "--threads", "1", "--name", name]
    return start("worker", *command, "--join", balancer.address, "--join-token-file", token)


def names(balancer):
    endpoints = requests.get(f"{balancer.admin}/fleet.json", timeout=10).json()["endpoints"]
    return sorted(one["name"] for one in endpoints)


def ask(balancer):
    return requests.post(f"{balancer.url}/submit", files={"image": PICTURE}, data={"model": "mnist"}, timeout=30)


def answered_by(balancer, name):
    answer = ask(balancer)
    return answer.status_code == 200 and answer.headers["x-imagefleet-endpoint"] == name


def test_workers_come_go_die_and_are_known_again_after_a_restart(start, token):
    fleet = balancer(start, token)
    assert names(fleet) == [] and ask(fleet).status_code == 503
    first = worker(start, fleet, token, "first")
    eventually(lambda: answered_by(fleet, "first"), 60, "an answer of the worker that joined")
    second = worker(start, fleet, token, "second")
    eventually(lambda: answered_by(fleet, "second"), 60, "an answer of the second worker")

    # A graceful leave loses no request.
    statuses = []
    is_over = threading.Event()

    def load():
        while not is_over.is_set():
            statuses.append(ask(fleet).status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert second.stop() == 0
        eventually(lambda: names(fleet) == ["first"], 20, "the second worker has left")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}

    # A killed worker is removed when its lease expires.
    third = worker(start, fleet, token, "third")
    eventually(lambda: "third" in names(fleet), 60, "the third worker has joined")
    third.process.kill()
    eventually(lambda: names(fleet) == ["first"], 30, "the third worker is forgotten")

    # A new balancer learns of the workers that are running.
    assert fleet.stop() == 0
    again = balancer(start, token, listen=fleet.address)
    eventually(lambda: answered_by(again, "first"), 60, "the first worker has joined again")
    assert first.stop() == 0


def test_the_view_of_operators_shows_who_has_joined_and_when(start, token, browse):
    fleet = balancer(start, token)
    worker(start, fleet, token, "newcomer")
    browser = browse(f"{fleet.admin}/fleet")
    browser.until(lambda: "newcomer" in browser.find("#endpoints").text, "the worker that joined")
    browser.until(lambda: "joined" in browser.find("tr[data-endpoint=newcomer]").text, "how long it has been there")


def test_a_worker_with_a_wrong_token_says_so_and_serves_all_the_same(start, token, tmp_path):
    fleet = balancer(start, token)
    wrong = tmp_path / "wrong.token"
    wrong.write_text("not-the-token\n")
    stranger = worker(start, fleet, wrong, "stranger")
    eventually(lambda: "--join-token-file" in stranger.log.read_text(), 30, "a warning that says why")
    assert names(fleet) == []
    assert "not-the-token" not in stranger.log.read_text(), "tokens are not logged"
    answer = requests.post(f"{stranger.url}/predict", files={"image": PICTURE}, timeout=30)
    assert answer.status_code == 200


def test_the_second_worker_of_a_name_waits_until_the_first_has_gone(start, token):
    fleet = balancer(start, token)

    def addresses():
        return [one["address"] for one in requests.get(f"{fleet.admin}/fleet.json", timeout=10).json()["endpoints"]]

    first = worker(start, fleet, token, "same")
    eventually(lambda: answered_by(fleet, "same"), 60, "an answer of the first")
    second = worker(start, fleet, token, "same")
    told = f"same at {first.address} has joined already"
    eventually(lambda: told in second.log.read_text(), 30, "the second is told who has the name")
    assert addresses() == [first.address]
    assert first.stop() == 0
    eventually(lambda: addresses() == [second.address], 30, "the second has the name")
    eventually(lambda: answered_by(fleet, "same"), 60, "an answer of the second")


def test_the_install_script_lets_workers_join(token):
    def settings(*arguments):
        command = [ROOT / "scripts" / "install.sh", *arguments, "--bin-dir", "/nowhere", "--no-pull", "--dry-run"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    joins = settings("worker", "--join", "10.0.0.1:5000", "--join", "10.0.0.2:5000", "--join-token-file", token)
    assert joins.returncode == 0, joins.stderr
    assert "WORKER_JOIN=10.0.0.1:5000,10.0.0.2:5000\n" in joins.stdout
    assert "WORKER_JOIN_TOKEN_FILE=/etc/imagefleet/join.token\n" in joins.stdout
    accepts = settings("balancer", "--accept-joins", "--join-token-file", token)
    assert accepts.returncode == 0, accepts.stderr
    assert "BALANCER_ACCEPT_JOINS=true\n" in accepts.stdout and "RSPEC" not in accepts.stdout
    for wrong in (["worker", "--join", "10.0.0.1:5000"], ["client", "--join", "a:1", "--join-token-file", token]):
        assert settings(*wrong).returncode == 2, wrong


def test_a_worker_joins_over_tls_and_only_where_the_certificate_is_known(start, token, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    command += ["-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    flags = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--accept-joins", "--join-token-file", token]
    fleet = start("balancer", *flags, "--tls-cert", certificate, "--tls-key", key)
    port = fleet.address.rpartition(":")[2]
    fleet.admin = f"http://{fleet.wait_for('admin on (?:http://)?(.*)')}"
    serve = ["serve", "--listen", "127.0.0.1:0", "--threads", "1", "--join", f"https://localhost:{port}"]
    stranger = start("worker", *serve, "--name", "stranger", "--join-token-file", token)
    eventually(lambda: "--join-cacert" in stranger.log.read_text(), 30, "it is told what is missing")
    start("worker", *serve, "--name", "known", "--join-token-file", token, "--join-cacert", certificate)
    eventually(lambda: names(fleet) == ["known"], 60, "the worker that knows the certificate has joined")
    url = f"https://localhost:{port}/submit"

    def answers():
        answer = requests.post(url, files={"image": PICTURE}, data={"model": "mnist"}, verify=certificate, timeout=30)
        return answer.status_code == 200 and answer.headers["x-imagefleet-endpoint"] == "known"

    eventually(answers, 60, "an answer over TLS of the worker that joined")
