"""The little of a W&B server that a run meets, on this machine."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Takes runs; keeps what it was told.

    Attributes:
        status: of every answer.
        asked: set by the first request.
        runs: what was said of each run when it began: name, project, groupName ...
        told: bodies of the file stream, which carries history and summary.
    """

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.asked = threading.Event()
        self.runs: list[dict[str, Any]] = []
        self.told: list[str] = []

    def handle_error(self, *args: Any) -> None:
        """A connection that its other end drops is no error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving(status: int = 200) -> Iterator[Server]:
    with Server(status) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.set()
        data: dict[str, Any] = {}
        if self.path == "/graphql":
            query = json.loads(body)
            variables = query.get("variables") or {}
            if "mutation UpsertBucket" in query["query"]:
                self.server.runs.append(variables)
                project = {"id": "2", "name": variables.get("project"), "entity": {"name": "me"}}
                bucket = {"id": "1", "name": variables.get("name"), "project": project}
                data["upsertBucket"] = {"bucket": bucket, "inserted": True}
            elif "mutation CreateRunFiles" in query["query"]:
                files = [
                    {"name": name, "uploadUrl": f"{self.server.url}/upload"}
                    for name in variables["files"]
                ]
                data["createRunFiles"] = {"runID": "1", "uploadHeaders": [], "files": files}
        elif self.path.endswith("/file_stream"):
            self.server.told.append(body.decode())
        answer = json.dumps({"data": data}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST

    def log_message(self, *args: Any) -> None:
        pass
