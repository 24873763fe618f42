"""Calls all that the sample serves, again and again, in sessions: connect, ask some times, end. At :9000 it tells how that went."""

import asyncio
import hashlib
import http.client
import http.server
import json
import select
import smtplib
import socket
import ssl
import subprocess
import threading
import time

import psycopg2
import redis
import websockets

from common import Echo, Server

ROUNDS = 4
PATIENCE = 20
# Cases of the interoperability tests of gRPC.
CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "custom_metadata",
    "status_code_and_message",
    "unimplemented_method",
]


def rounds():
    for number in range(ROUNDS):
        yield number
        time.sleep(0.1)


def same(got, expected):
    if got != expected:
        raise AssertionError(f"{got!r:.80} is not {expected!r:.80}")


def post(connection, mark, host=None):
    """Asks some times by one connection, which is to stay."""
    connection.connect()
    kept = connection.sock
    for number in rounds():
        body = f"{mark} {number} ".encode() * 5000
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        same((answer.status, answer.read()), (200, body))
        if host:
            same(answer.headers["X-Host"], host)
        same(connection.sock, kept)
    connection.close()


def plain(mark, host, answers=None):
    post(http.client.HTTPConnection(host, 8080, timeout=PATIENCE), mark, answers)


def http1(mark):
    plain(mark, "web")


def headless(mark):
    plain(mark, "web-0.pods", "web-0")


def pod(mark):
    plain(mark, socket.gethostbyname("web-1.pods"), "web-1")


def itself(mark):
    """By the Service of the caller's own pod."""
    plain(mark, "caller")


def tls(mark):
    context = ssl.create_default_context(cafile="/certificate/tls.crt")
    post(http.client.HTTPSConnection("web", 8443, timeout=PATIENCE, context=context), mark)


def grpc(_):
    for case in CASES:
        command = ["/grpc/client", "-server_host=grpc", "-server_port=8080", f"-test_case={case}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if ended.returncode:
            raise AssertionError(f"{case}: {ended.stderr[-300:]}")
        # Each is a program of its own, and others want to run as well.
        time.sleep(0.05)


def websocket(mark):
    async def session():
        async with websockets.connect("ws://web:8081", compression=None) as connection:
            for number in range(ROUNDS):
                for message in f"{mark} {number}", mark.encode() * 10000:
                    await connection.send(message)
                    same(await connection.recv(), message)
                await (await connection.ping())
                await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(session(), PATIENCE))


def redis_(mark):
    client = redis.Redis("redis", 6379, socket_timeout=PATIENCE, single_connection_client=True)
    hears = redis.Redis("redis", 6379, socket_timeout=PATIENCE).pubsub(ignore_subscribe_messages=True)
    hears.subscribe("news")
    # The answer to that, which is passed over.
    hears.get_message(timeout=PATIENCE)
    for number in rounds():
        value = f"{mark} {number} ".encode() * 1000
        client.set("key", value)
        same(client.get("key"), value)
        client.publish("news", value)
        # What the server says unasked.
        same(hears.get_message(timeout=PATIENCE)["data"], value)
    hears.close()
    client.close()


def postgres(mark):
    connection = psycopg2.connect("host=postgres user=sample dbname=postgres connect_timeout=20")
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("LISTEN news")
    for number in rounds():
        cursor.execute("SELECT %s || n FROM generate_series(1, 2000) n", (mark,))
        same(cursor.fetchall(), [(f"{mark}{n}",) for n in range(1, 2001)])
        cursor.execute("SELECT pg_notify('news', %s)", (mark,))
        while not connection.notifies:
            if not select.select([connection], [], [], PATIENCE)[0]:
                raise AssertionError("nothing is heard of what was told")
            connection.poll()
        same(connection.notifies.pop().payload, mark)
    connection.close()


def smtp(mark):
    """Here the server speaks first."""
    client = smtplib.SMTP("web", 8025, local_hostname="caller", timeout=PATIENCE)
    client.ehlo()
    for number in rounds():
        message = f"Subject: {mark} {number}\r\n\r\n{mark}\r\n".encode()
        client.mail("a@example.com")
        client.rcpt("b@example.com")
        same(client.data(message), (250, hashlib.sha256(message).hexdigest().encode()))
    client.quit()


SESSIONS = {
    "http": http1,
    "headless": headless,
    "pod": pod,
    "itself": itself,
    "tls": tls,
    "grpc": grpc,
    "websocket": websocket,
    "redis": redis_,
    "postgres": postgres,
    "smtp": smtp,
}
report = {name: {"sessions": 0, "failures": 0, "last": ""} for name in SESSIONS}


def call(name, session):
    told = report[name]
    while True:
        try:
            session(f"sample-{name}-in-clear")
            told["sessions"] += 1
        except Exception as error:
            told["failures"] += 1
            told["last"] = f"{type(error).__name__}: {error}"
        time.sleep(0.2)


class Report(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(report).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


for name, session in SESSIONS.items():
    threading.Thread(target=call, args=(name, session), daemon=True).start()
threading.Thread(target=Server(("", 8080), Echo).serve_forever, daemon=True).start()
Server(("", 9000), Report).serve_forever()
