"""A server that takes W&B runs, on the loopback address: what wandb 0.31 asks of W&B's, and nothing more.

It knows GraphQL by the operation's name and keeps what the file stream brings. Limits: it validates no query, has no
permissions, rates or sizes that W&B's own may refuse, and computes nothing from what it is given.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "team"


@dataclass
class KeptRun:
    """A run as the server knows it. exit_code: None while it is open."""

    id: str
    project: str
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Points (step, value) of a metric."""
        return [(row["step"], row[name]) for row in self.history if name in row]


class WandbServer(ThreadingHTTPServer):
    """Serves from construction to ``close``.

    runs: by id. asked: ids in the order in which runs were begun, or gone on with. operations: how often, by name.
    gone: whether connections are dropped; dropped: how many were. deleted: ids that it never takes again. refuses: HTTP
    status of every answer. before: called before every answer. artifacts: committed ones, by name, with the content of
    their files. unknown: operations that it has no answer for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.changed = threading.Condition()
        self.reset()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def reset(self) -> None:
        """Forget everything."""
        self.runs: dict[str, KeptRun] = {}
        self.asked: list[str] = []
        self.operations: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.gone, self.dropped, self.refuses = False, 0, 0
        self.deleted: set[str] = set()
        self.before: Callable[[], Any] = lambda: None
        self._pending: dict[str, tuple[str, dict[str, bytes]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something is as a test needs it; a minute without is an error."""
        with self.changed:
            assert self.changed.wait_for(lambda: bool(condition()), timeout=60), "nothing came"

    def close(self) -> None:
        """Serve no more."""
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Nothing: a client that hangs up is no news."""

    # GraphQL, by the name of the operation.

    def answer(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Data of an operation's answer."""
        self.operations[name] += 1
        known = getattr(self, f"_{re.sub('(?<!^)(?=[A-Z])', '_', name).lower()}", None)
        if known is None:
            self.unknown.add(name)
            return {}
        data: dict[str, Any] = known(values)
        return data

    def _viewer(self, _: Any) -> dict[str, Any]:
        viewer = {"id": "u", "entity": ENTITY, "username": "somebody", "email": "", "flags": "{}"}
        return {"viewer": {**viewer, "teams": {"edges": []}}}

    def _server_features_query(self, _: Any) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _run_resume_status(self, values: dict[str, Any]) -> dict[str, Any]:
        run, project = self.runs.get(values["name"]), values["project"]
        self.asked.append(values["name"])
        bucket = run and {
            **_bucket(run),
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {**_project(project), "bucket": bucket}}

    def _upsert_bucket(self, values: dict[str, Any]) -> dict[str, Any]:
        new = values["name"] not in self.runs
        run = self.runs.setdefault(values["name"], KeptRun(values["name"], values["project"]))
        if values.get("config"):
            run.config |= {key: item["value"] for key, item in json.loads(values["config"]).items() if "value" in item}
        run.facts |= {key: value for key, value in values.items() if value is not None}
        run.exit_code = None
        return {"upsertBucket": {"bucket": _bucket(run), "inserted": new}}

    def _organization_core_weave_organization_i_d(self, _: Any) -> dict[str, Any]:
        return {"entity": None}

    def _artifact_type(self, _: Any) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _create_run_files(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{values['run']}/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}

    def _create_artifact(self, values: dict[str, Any]) -> dict[str, Any]:
        given = values["input"]
        number = f"a{len(self._pending)}"
        self._pending[number] = (given["artifactCollectionName"], {})
        artifact = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _create_artifact_manifest(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(values["artifactID"])}}

    def _update_artifact_manifest(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(values["artifactManifestID"])}}

    def _manifest(self, artifact: str) -> dict[str, Any]:
        url = f"{self.url}/put-artifact/{artifact}/wandb_manifest.json"
        return {"id": artifact, "file": {"id": "f", "uploadUrl": url, "uploadHeaders": []}}

    def _create_artifact_files(self, values: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/put-artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in values["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _commit_artifact(self, values: dict[str, Any]) -> dict[str, Any]:
        name, files = self._pending[values["artifactID"]]
        self.artifacts[name] = files
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "d"}}}

    # Files.

    def stream(self, run: KeptRun, sent: dict[str, Any]) -> None:
        """Take in what a file stream has sent."""
        files = sent.get("files") or {}
        for name, chunk in files.items():
            lines, start = chunk["content"], chunk["offset"]
            if name == "wandb-history.jsonl":
                run.history[start:] = [json.loads(line) for line in lines]
            elif name == "wandb-events.jsonl":
                run.events[start:] = lines
            elif name == "wandb-summary.json":
                run.summary = json.loads(lines[-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def put(self, path: str, content: bytes) -> None:
        """Take in an uploaded file."""
        kind, owner, name = path.lstrip("/").split("/", 2)
        files = self.runs[owner].files if kind == "put" else self._pending[owner][1]
        files[name] = content


def _project(name: str) -> dict[str, Any]:
    return {"id": f"p-{name}", "name": name, "entity": {"id": "e", "name": ENTITY}}


def _bucket(run: KeptRun) -> dict[str, Any]:
    config = json.dumps({key: {"value": value} for key, value in run.config.items()})
    return {
        "id": f"r-{run.id}",
        "name": run.id,
        "displayName": run.facts.get("displayName"),
        "description": None,
        "config": config,
        "sweepName": None,
        "project": _project(run.project),
        "historyLineCount": len(run.history),
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        self._handle(self._post)

    def do_PUT(self) -> None:
        self._handle(lambda content: (self.server.put(self.path, content), {})[1])

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _handle(self, answer: Callable[[bytes], dict[str, Any]]) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        server = self.server
        server.before()
        if server.gone:
            with server.changed:
                server.dropped += 1
                server.changed.notify_all()
            self.close_connection = True
            return
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        refused = server.refuses or (401 if given != f"api:{KEY}" and self.command == "POST" else 0)
        if refused:
            self._send(refused, {"error": "refused"})
            return
        with server.changed:
            try:
                status, said = 200, answer(content)
            except _Refused as error:
                status, said = error.args
            server.changed.notify_all()
        self._send(status, said)

    def _post(self, content: bytes) -> dict[str, Any]:
        sent = json.loads(content)
        if self.path.endswith("/file_stream"):
            self.server.stream(self.server.runs[self.path.split("/")[-2]], sent)
            return {}
        found = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
        name, values = found[1] if found else "", sent.get("variables") or {}
        if name == "UpsertBucket" and values["name"] in self.server.deleted:
            said = f"run {values['name']} was previously created and deleted; try a new run name"
            raise _Refused(409, {"errors": [{"message": said}]})
        return {"data": self.server.answer(name, values)}

    def _send(self, status: int, said: dict[str, Any]) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Refused(Exception):
    """HTTP status and body of an answer."""


def settings_of(server: WandbServer) -> dict[str, str]:
    """Environment variables by which wandb sends runs there, and soon."""
    return {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": KEY,
        "WANDB_MODE": "online",
        "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",  # seconds; 15 by default
        "WANDB__FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    }
