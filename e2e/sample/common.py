"""What the server and the caller of the sample have in common."""

import http.server
import socket


class Echo(http.server.BaseHTTPRequestHandler):
    """Tells back what it is sent, and by a header who does so."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Host", socket.gethostname())
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.headers["Content-Length"] = "0"
        self.do_POST()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """One that may have a queue of callers."""

    request_queue_size = 64
