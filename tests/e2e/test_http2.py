"""HTTP/2 at the front: ordinary use, and what the specification (RFC 9113) calls an error.

Frames are built by hand where a proper library would refuse to send them. Whatever a client sends,
the balancer answers with the right kind of error or closes, and keeps serving all other clients.
"""

import socket
import struct
import time

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from hpack import Encoder

from fleet import eventually

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, ACK = 0x1, 0x4, 0x8, 0x1
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11
POST = [(":method", "POST"), (":scheme", "http"), (":authority", "fleet"), (":path", "/predict")]


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields):
    return Encoder().encode(fields)


def headers(fields, stream=1, flags=END_STREAM | END_HEADERS):
    return frame(HEADERS, flags, stream, block(fields))


@pytest.fixture(scope="module")
def front(start, recorder):
    """A balancer that speaks HTTP/2 without TLS, so that a test can send any byte."""
    balancer = start(
        "balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", recorder.address, "--h2c"
    )
    host, port = balancer.address.rsplit(":", 1)
    eventually(lambda: ask((host, int(port)))[0] == 200, 15, "ready")
    return host, int(port)


class Raw:
    """A connection that has exchanged prefaces and reads one frame at a time."""

    def __init__(self, address, settings=b""):
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.sendall(PREFACE + frame(SETTINGS, payload=settings))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # closed already; what was sent before can still be read

    def read(self):
        """The next frame as (kind, flags, stream, payload), or None at the end."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                part = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                return None
            if not part:
                return None
            self.buffer += part
        length = int.from_bytes(self.buffer[:3], "big")
        kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
        payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
        return kind, flags, stream & 0x7FFFFFFF, payload

    def verdict(self):
        """How the server reacts: ("connection" | "stream", code), ("answer", stream) or closed."""
        while (seen := self.read()) is not None:
            kind, _, stream, payload = seen
            if kind == GOAWAY:
                return "connection", int.from_bytes(payload[4:8], "big")
            if kind == RST_STREAM:
                return "stream", int.from_bytes(payload[:4], "big")
            if kind == HEADERS:
                return "answer", stream
        return "closed", None


def ask(address, count=1, body=b"hello"):
    """Sends `count` concurrent requests on one connection and returns the statuses."""
    with socket.create_connection(address, timeout=10) as connection:
        h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        h2.initiate_connection()
        for _ in range(count):
            stream = h2.get_next_available_stream_id()
            h2.send_headers(stream, POST + [("content-length", str(len(body)))])
            h2.send_data(stream, body, end_stream=True)
        connection.sendall(h2.data_to_send())
        statuses, ended = [], 0
        while ended < count:
            received = connection.recv(65536)
            assert received, "closed before all was answered"
            for event in h2.receive_data(received):
                if isinstance(event, ResponseReceived):
                    statuses.append(int(dict(event.headers)[":status"]))
                elif isinstance(event, DataReceived):
                    h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    ended += 1
                assert not isinstance(event, (StreamReset, ConnectionTerminated)), event
            connection.sendall(h2.data_to_send())
        return statuses


def test_a_hundred_requests_share_a_connection(front):
    assert ask(front, 100) == [200] * 100


def test_a_request_reaches_the_worker_as_one_clean_http_1_request(front, recorder):
    recorder.requests.clear()
    fields = POST + [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("content-length", "0")]
    with Raw(front) as raw:
        raw.send(headers(fields))
        assert raw.verdict() == ("answer", 1)
    [request] = recorder.requests
    assert not list(request.faults()), request.head
    assert request.values(b"host") == [b"fleet"]
    assert request.values(b"cookie") == [b"a=1; b=2"]


# Bytes sent after the prefaces, and the error codes that may come back. A server may treat a stream
# error as a connection error, may use PROTOCOL_ERROR where there is a more exact code (RFC 9113,
# 5.4.2 and 7), and may close without an error.
ERRORS = {
    "a frame beyond the size limit": (frame(DATA, stream=1, payload=b"x" * 20_000), {FRAME_SIZE_ERROR, PROTOCOL_ERROR}),
    "data before headers": (frame(DATA, stream=1, payload=b"x"), {PROTOCOL_ERROR, STREAM_CLOSED}),
    "data on stream 0": (frame(DATA, payload=b"x"), {PROTOCOL_ERROR}),
    "headers on stream 0": (headers(POST, stream=0), {PROTOCOL_ERROR}),
    "headers on an even stream": (headers(POST, stream=2), {PROTOCOL_ERROR}),
    "a stream below the last one": (
        headers(POST, stream=5) + headers(POST, stream=3),
        {PROTOCOL_ERROR, STREAM_CLOSED},
    ),
    "settings on a stream": (frame(SETTINGS, stream=1), {PROTOCOL_ERROR}),
    "settings of odd length": (frame(SETTINGS, payload=b"xxxxx"), {FRAME_SIZE_ERROR}),
    "an acknowledgement with settings": (frame(SETTINGS, ACK, payload=b"\0\3\0\0\0\1"), {FRAME_SIZE_ERROR}),
    "a window beyond its limit": (frame(SETTINGS, payload=b"\0\4\x80\0\0\0"), {FLOW_CONTROL_ERROR}),
    "a frame size below its limit": (frame(SETTINGS, payload=b"\0\5\0\0\0\1"), {PROTOCOL_ERROR}),
    "a ping of odd length": (frame(PING, payload=b"x"), {FRAME_SIZE_ERROR}),
    "a ping on a stream": (frame(PING, stream=1, payload=b"x" * 8), {PROTOCOL_ERROR}),
    "a reset of an idle stream": (frame(RST_STREAM, stream=1, payload=b"\0\0\0\0"), {PROTOCOL_ERROR}),
    "a reset on stream 0": (frame(RST_STREAM, payload=b"\0\0\0\0"), {PROTOCOL_ERROR}),
    "a push from a client": (frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(POST)), {PROTOCOL_ERROR}),
    "a continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1, block(POST)), {PROTOCOL_ERROR}),
    "headers interrupted by data": (
        headers(POST, flags=0) + frame(DATA, stream=1, payload=b"x"),
        {PROTOCOL_ERROR},
    ),
    "padding longer than the frame": (frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + block(POST)), {PROTOCOL_ERROR}),
    "a header block that is none": (frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff" * 40), {COMPRESSION_ERROR}),
    "a window update of 0": (frame(WINDOW_UPDATE, payload=b"\0\0\0\0"), {PROTOCOL_ERROR}),
    "a window that overflows": (frame(WINDOW_UPDATE, payload=b"\x7f\xff\xff\xff"), {FLOW_CONTROL_ERROR}),
    "a window update on an idle stream": (frame(WINDOW_UPDATE, stream=1, payload=b"\0\0\0\1"), {PROTOCOL_ERROR}),
    "a goaway on a stream": (frame(GOAWAY, stream=1, payload=b"\0" * 8), {PROTOCOL_ERROR}),
    "an upper case name": (headers([*POST, ("X-Upper", "1")]), {PROTOCOL_ERROR}),
    "a connection field": (headers([*POST, ("connection", "close")]), {PROTOCOL_ERROR}),
    "transfer-encoding": (headers([*POST, ("transfer-encoding", "chunked")]), {PROTOCOL_ERROR}),
    "an unknown pseudo field": (headers([*POST, (":what", "1")]), {PROTOCOL_ERROR}),
    "a pseudo field of answers": (headers([*POST, (":status", "200")]), {PROTOCOL_ERROR}),
    "a pseudo field after others": (headers([("x-one", "1"), *POST]), {PROTOCOL_ERROR}),
    "two methods": (headers([(":method", "GET"), *POST]), {PROTOCOL_ERROR}),
    "no path": (headers(POST[:3]), {PROTOCOL_ERROR}),
    "an empty path": (headers([*POST[:3], (":path", "")]), {PROTOCOL_ERROR}),
    "no method": (headers(POST[1:]), {PROTOCOL_ERROR}),
    "a line end in a value": (headers([*POST, ("x-one", "a\r\nx-two: b")]), {PROTOCOL_ERROR}),
    "more data than was announced": (
        headers([*POST, ("content-length", "1")], flags=END_HEADERS)
        + frame(DATA, END_STREAM, 1, b"hello"),
        {PROTOCOL_ERROR},
    ),
    "less data than was announced": (
        headers([*POST, ("content-length", "9")], flags=END_HEADERS)
        + frame(DATA, END_STREAM, 1, b"hello"),
        {PROTOCOL_ERROR},
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_an_error_is_answered_as_one(front, recorder, name):
    data, codes = ERRORS[name]
    recorder.requests.clear()
    with Raw(front) as raw:
        raw.send(data)
        what, code = raw.verdict()
        refused = what == "answer" and not recorder.requests  # a 400 says the same
        assert refused or what == "closed" or code in codes | {PROTOCOL_ERROR}, (what, code)
    assert all(not list(request.faults()) for request in recorder.requests)
    assert len(recorder.requests) <= 1
    assert ask(front) == [200]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("two hosts", [*POST, ("host", "other")]),
        ("a host that is none", [*POST[:2], (":authority", "a b"), POST[3]]),
        ("a path with a space", [*POST[:3], (":path", "/predict HTTP/1.1")]),
        ("CONNECT", [(":method", "CONNECT"), (":authority", "fleet:80")]),
        ("a head beyond the limit", [*POST, ("x-long", "a" * 30_000)]),
        ("too long a target", [*POST[:3], (":path", "/predict?q=" + "a" * 9_000)]),
    ],
)
def test_a_head_that_is_refused_reaches_no_worker(front, recorder, name, fields):
    recorder.requests.clear()
    encoded = block(fields)
    parts = [encoded[i : i + 16_000] for i in range(0, len(encoded), 16_000)]
    data = b"".join(
        frame(CONTINUATION if i else HEADERS, (0 if i else END_STREAM) | (END_HEADERS if i == len(parts) - 1 else 0), 1, part)
        for i, part in enumerate(parts)
    )
    with Raw(front) as raw:
        raw.send(data)
        assert raw.verdict()[0] in ("answer", "stream", "connection", "closed")
    assert not recorder.requests, name
    assert ask(front) == [200]


def test_rapid_reset_is_cut_off(front):
    with Raw(front) as raw:
        encoder = Encoder()
        for number in range(20_000):
            stream = 2 * number + 1
            head = frame(HEADERS, END_HEADERS, stream, encoder.encode(POST))
            raw.send(head + frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
        what, code = raw.verdict()
        assert what == "closed" or (what, code) == ("connection", ENHANCE_YOUR_CALM), (what, code)
    assert ask(front) == [200]


@pytest.mark.parametrize(
    ("name", "flood"),
    [
        ("settings", frame(SETTINGS) * 20_000),
        ("pings", frame(PING, payload=b"x" * 8) * 20_000),
        ("empty data", headers(POST, flags=END_HEADERS) + frame(DATA, stream=1) * 20_000),
        ("priorities", b"".join(frame(PRIORITY, stream=2 * i + 1, payload=b"\0\0\0\0\1") for i in range(20_000))),
        ("continuations", headers(POST, flags=0) + frame(CONTINUATION, stream=1, payload=b"") * 20_000),
    ],
)
def test_a_flood_slows_nobody_else(front, name, flood):
    with Raw(front) as raw:
        raw.socket.settimeout(1)
        for at in range(0, len(flood), 9_000):
            try:
                raw.socket.sendall(flood[at : at + 9_000])
            except OSError:
                break
        latencies = []
        for _ in range(10):
            began = time.monotonic()
            assert ask(front) == [200]
            latencies.append(time.monotonic() - began)
    assert sorted(latencies)[5] < 1, (name, latencies)


def test_a_client_that_opens_no_window_gets_nothing_and_holds_nobody_up(front):
    with Raw(front, settings=b"\0\4\0\0\0\0") as raw:
        raw.send(headers(POST))
        kinds = set()
        raw.socket.settimeout(1)
        try:
            while (seen := raw.read()) is not None:
                kinds.add(seen[0])
        except TimeoutError:
            pass
        assert DATA not in kinds
        assert ask(front) == [200]


def test_more_streams_than_allowed_are_refused_one_by_one(front):
    with Raw(front) as raw:
        encoder = Encoder()
        raw.send(b"".join(frame(HEADERS, END_HEADERS, 2 * i + 1, encoder.encode(POST)) for i in range(200)))
        what, code = raw.verdict()
        assert (what, code) in (("stream", 7), ("connection", ENHANCE_YOUR_CALM), ("connection", PROTOCOL_ERROR))
    assert ask(front) == [200]
