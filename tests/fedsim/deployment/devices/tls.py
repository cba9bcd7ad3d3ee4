"""A server on loopback with certificate and key of an operator's folder, and a clock of its own."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path


@contextlib.contextmanager
def serving(
    folder: Path | None, *, host: str = "127.0.0.1", ahead: float = 0.0, says: bytes | None = None
) -> Iterator[int]:
    """Answers every connection like a web server whose clock is ``ahead`` by so many seconds, or ``says`` something.

    Without ``folder`` it does so without TLS; the port.
    """
    context = None
    if folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
                connection.recv(4096)
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
            connection.sendall(f"HTTP/1.1 404 Not Found\r\ndate: {date}\r\n\r\n".encode() if says is None else says)
        connection.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                answer(listening.accept()[0])

    with socket.create_server((host, 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)
