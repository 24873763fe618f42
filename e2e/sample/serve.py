"""Serves HTTP/1.1, the same by TLS of its own, WebSockets and SMTP, each by a library that others use."""

import asyncio
import hashlib
import ssl
import threading

import websockets
from aiosmtpd.smtp import SMTP

from common import Echo, Server


class Digest:
    """Tells of a message what it was."""

    async def handle_DATA(self, server, session, envelope):
        return "250 " + hashlib.sha256(envelope.content).hexdigest()


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def streams():
    await asyncio.get_running_loop().create_server(lambda: SMTP(Digest(), hostname="mail"), port=8025)
    async with websockets.serve(echo, port=8081):
        await asyncio.Future()


def main():
    plain = Server(("", 8080), Echo)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("/certificate/tls.crt", "/certificate/tls.key")
    encrypted = Server(("", 8443), Echo)
    # Hands are shaken by the thread of the connection, not where connections are accepted.
    encrypted.socket = context.wrap_socket(encrypted.socket, server_side=True, do_handshake_on_connect=False)
    for server in plain, encrypted:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    asyncio.run(streams())


main()
