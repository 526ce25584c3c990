"""An upstream that records every byte it receives and checks whether each request is clean."""

import re
import socketserver
import threading

PROBES = ("/v2/health/ready", "/v2/repository/index")
INDEX = b'[{"name":"mnist","version":"1","state":"READY","reason":""}]'
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


class Request:
    def __init__(self, head, body):
        self.head, self.body = head, body
        self.line, *rest = head.split(b"\r\n")
        self.fields = [tuple(part.strip() for part in row.partition(b":")[::2]) for row in rest]

    def values(self, name):
        return [value for key, value in self.fields if key.lower() == name]

    def faults(self):
        """Everything that another parser could read differently."""
        if not re.fullmatch(rb"[A-Z]+ [!-~]+ HTTP/1\.1", self.line):
            yield f"request line {self.line}"
        for row in self.head.split(b"\r\n")[1:]:
            name, colon, value = row.partition(b":")
            if not colon or not TOKEN.match(name) or re.search(rb"[\r\n\0]", value):
                yield f"header {row}"
        if len(self.values(b"host")) != 1:
            yield f"host {self.values(b'host')}"
        if self.values(b"transfer-encoding"):
            yield "transfer-encoding upstream"
        lengths = self.values(b"content-length")
        if len(lengths) > 1 or (lengths and not re.fullmatch(rb"\d+", lengths[0])):
            yield f"content-length {lengths}"
        if not lengths and not self.line.startswith((b"GET ", b"HEAD ")):
            yield "no content-length"
        for name in (b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"proxy-connection"):
            if any(value.lower() != b"keep-alive" for value in self.values(name)):
                yield f"hop-by-hop {name}"


class Recorder(socketserver.ThreadingTCPServer):
    """Answers `"7"` to everything; `requests` has the requests received, without probes."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 512

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Connection)
        self.requests = []
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """A proxy may hang up at any moment; its requests are recorded all the same."""


class Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        while head := self._head():
            length = re.search(rb"\r\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
            body = self.rfile.read(int(length[1])) if length else b""
            request = Request(head, body)
            if not any(path.encode() in request.line for path in PROBES):
                self.server.requests.append(request)
            answer = INDEX if b"/v2/repository/index" in request.line else b'"7"\n'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self.wfile.write(head % len(answer) + answer)

    def _head(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            try:
                line = self.rfile.readline()
            except ConnectionError:
                return b""
            if not line:
                return b""
            head += line
        return head[:-4]
