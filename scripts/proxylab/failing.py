"""A worker gone wrong: ready, serving every model, and answering 500 to each request."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Failing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, status, body):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, b'{"ready":true,"live":true}')

    def do_POST(self):
        if self.path == "/v2/repository/index":
            self.answer(200, b'[{"name":"mnist","version":"1","state":"READY","reason":""}]')
        else:
            self.answer(500, b'{"error":"something is wrong here"}')

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Failing).serve_forever()
