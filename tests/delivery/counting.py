"""A proxy between a device and a server that counts, at the socket, what goes through it."""

import contextlib
import dataclasses
import socket
import threading
import urllib.parse


@dataclasses.dataclass
class Count:
    """What went through.

    Attributes:
      connections: that were opened.
      turns: how often something was asked for, and an answer had to be waited for: a connection's
        first bytes of the client, and each that follow on bytes of the server.
      sent_bytes: of the client.
      received_bytes: of the server, headers included.
      answers: of each connection, all that the server sent.
      most_bytes: of the server that may pass; what is more waits until `let_go`.
    """

    connections: int = 0
    turns: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    answers: list = dataclasses.field(default_factory=list)
    most_bytes: float = float("inf")
    changed: threading.Condition = dataclasses.field(default_factory=threading.Condition)

    def let_go(self):
        with self.changed:
            self.most_bytes = float("inf")
            self.changed.notify_all()


@contextlib.contextmanager
def counting(url, **kwargs):
    """Yields (URL of a proxy before a server, its Count)."""
    parts, count = urllib.parse.urlsplit(url), Count(**kwargs)
    threads, sockets = [], []

    def start(target, *arguments):
        threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        threads[-1].start()

    def upwards(client, server, asking):
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                with count.changed:
                    if not asking.is_set():
                        asking.set()
                        count.turns += 1
                    count.sent_bytes += len(data)
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def downwards(client, server, asking, answers):
        # Closed, not only shut: a server that sends on must see that nobody reads it.
        with client, server, contextlib.suppress(OSError):
            while data := server.recv(16384):
                while data:
                    with count.changed:
                        count.changed.wait_for(lambda: count.received_bytes < count.most_bytes)
                        room = min(count.most_bytes - count.received_bytes, len(data))
                        piece, data = data[: int(room)], data[int(room) :]
                        asking.clear()
                        count.received_bytes += len(piece)
                        answers += piece
                        count.changed.notify_all()
                    client.sendall(piece)
            client.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                server = socket.create_connection((parts.hostname, parts.port))
                sockets.extend((client, server))
                with count.changed:
                    count.connections += 1
                    count.answers.append(bytearray())
                asking = threading.Event()
                start(upwards, client, server, asking)
                start(downwards, client, server, asking, count.answers[-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        start(accept)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{parts.path}", count
        finally:
            count.let_go()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(60)
