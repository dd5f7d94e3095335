"""A receiver of alerts, run on a host of a fleet: ``python3 -I receiver.py PORT FILE``.

Each body that Alertmanager posts becomes a line of FILE, as a JSON object with the path that it came to (``path``), the
Unix time in seconds (``time``), and the alerts (``alerts``).
"""

from __future__ import annotations

import http.server
import json
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    file = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        line = {"path": self.path, "time": time.time(), "alerts": body["alerts"]}
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    Handler.file = sys.argv[2]
    http.server.HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
