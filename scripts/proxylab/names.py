"""A name server for one service on the loopback interface, whose targets can be changed at any time."""

import socket
import struct
import threading

A, SRV, TTL = 1, 33, 1


class NameServer:
    """Answers SRV queries with `ports`, and address queries with 127.0.0.1."""

    def __init__(self, ports):
        self.ports = list(ports)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(1500)
            except OSError:
                return
            self.socket.sendto(self._answer(query), client)

    def _answer(self, query):
        end = query.index(b"\0", 12) + 1
        kind = struct.unpack(">H", query[end : end + 2])[0]
        if kind == SRV:
            records = [struct.pack(">HHH", 0, 0, port) + b"\4host\4test\0" for port in self.ports]
        else:
            records = [socket.inet_aton("127.0.0.1")] if kind == A else []
        head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(records), 0, 0) + query[12 : end + 4]
        return head + b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, TTL, len(data)) + data for data in records
        )

    def stop(self):
        self.socket.close()
