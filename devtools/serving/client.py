"""Talk to a running ComfyUI server: queue, wait, interrupt, look.

Live progress needs aiohttp, which every ComfyUI has; the rest is standard library.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..hosting.errors import ToolError

OnProgress = Callable[[str, float, float], None]
"""Called with node id, value and maximum whenever a node reports progress."""


class ServerError(ToolError):
    """The server did not start, died, or refused a request; the message ends with its own words."""


class ExecutionFailed(ServerError):
    """A node raised. `interrupted` tells a cancelled run from a failed one."""

    def __init__(self, node_id: str, node_type: str, kind: str, message: str, interrupted: bool = False) -> None:
        self.node_id, self.node_type, self.kind, self.message = node_id, node_type, kind, message
        self.interrupted = interrupted
        what = "was interrupted" if interrupted else f"raised {kind}: {message.strip()}"
        super().__init__(f"node {node_id} ({node_type}) {what}")


@dataclass(frozen=True)
class Server:
    """A running ComfyUI: its address, its base directory, its log and its process."""

    url: str
    base_directory: Path
    log: Path
    process: subprocess.Popen
    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def object_info(server: Server, node_class: str = "") -> dict:
    """Every node's inputs and outputs as the frontend sees them, or only one node's."""
    return _request(server, f"/object_info/{urllib.parse.quote(node_class)}" if node_class else "/object_info")


def queue(server: Server, prompt: dict, workflow: dict | None = None) -> str:
    """Queue an API-format prompt and return its id; `workflow` is what saved pictures will carry.

    Raises ServerError naming node and input if the server finds anything wrong with it, even in one branch only.
    """
    extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
    body = {"prompt": prompt, "client_id": server.client_id, "extra_data": extra}
    answer = _request(server, "/prompt", body)
    if answer.get("node_errors"):  # the server would still run the branches that are right
        _request(server, "/queue", {"delete": [answer["prompt_id"]]})
        interrupt(server, answer["prompt_id"])
        raise ServerError(f"the workflow was refused: {_node_errors(answer)}")
    return answer["prompt_id"]


def wait(
    server: Server,
    prompt_id: str,
    on_progress: OnProgress | None = None,
    on_preview: Callable[[bytes], None] | None = None,
    timeout: float = 3600.0,
) -> dict:
    """Wait for a prompt and return its history entry; `on_preview` gets each live preview as an encoded picture.

    Raises ExecutionFailed if a node raised or the run was interrupted, ServerError if the server died or forgot it.
    """
    deadline = time.monotonic() + timeout
    if on_progress or on_preview:
        return asyncio.run(_follow(server, prompt_id, on_progress, on_preview, deadline))
    while (entry := _finished(server, prompt_id, deadline)) is None:
        time.sleep(0.1)
    return entry


def interrupt(server: Server, prompt_id: str | None = None) -> None:
    """Cancel what is running, or only this prompt if it is the one that runs; returns before the node has stopped."""
    _request(server, "/interrupt", {"prompt_id": prompt_id} if prompt_id else {})


def image_refs(entry: dict) -> list[dict]:
    """All pictures of a history entry, in node order, as the references that `view` takes."""
    return [ref for output in entry.get("outputs", {}).values() for ref in output.get("images", [])]


def view(server: Server, image_ref: dict) -> bytes:
    """The file behind a picture of a history entry (`filename`, `subfolder`, `type`)."""
    query = urllib.parse.urlencode({key: image_ref.get(key, "") for key in ("filename", "subfolder", "type")})
    return _fetch(server, f"/view?{query}")


def log_tail(server: Server, lines: int = 30) -> str:
    """The end of the server's log."""
    return "\n".join(server.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def check_alive(server: Server) -> None:
    """Raise ServerError with the end of the log if the server has ended."""
    code = server.process.poll()
    if code is not None:
        raise ServerError(f"ComfyUI ended with exit code {code}. The end of {server.log}:\n{log_tail(server)}")


def _finished(server: Server, prompt_id: str, deadline: float) -> dict | None:
    """The prompt's history entry, or None while it waits or runs."""
    # The queue is read first: a prompt that leaves it in between is then found in the history.
    pending = _request(server, "/queue")
    entry = _request(server, f"/history/{prompt_id}").get(prompt_id)
    if entry is not None:
        _raise_if_failed(entry)
        return entry
    if all(item[1] != prompt_id for items in pending.values() for item in items):
        raise ServerError(f"prompt {prompt_id} is neither queued nor done; it was taken from the queue")
    if time.monotonic() > deadline:
        raise ServerError(f"prompt {prompt_id} was not done in time. The end of the log:\n{log_tail(server)}")
    return None


def _raise_if_failed(entry: dict) -> None:
    for event, data in entry.get("status", {}).get("messages", []):
        if event in ("execution_error", "execution_interrupted"):
            kind, message = data.get("exception_type", ""), data.get("exception_message", "")
            node = str(data.get("node_id")), str(data.get("node_type"))
            raise ExecutionFailed(*node, kind, message, interrupted=event == "execution_interrupted")


async def _follow(
    server: Server, prompt_id: str, on_progress: OnProgress | None, on_preview: Callable | None, deadline: float
) -> dict:
    """Wait while passing on what the server tells this client over its websocket."""
    import aiohttp

    address = f"{server.url}/ws?clientId={server.client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as stream:
        entry, asked = None, 0.0
        while True:
            # Many messages can come between two looks at the history; they must not slow each other down.
            if entry is None and time.monotonic() - asked > 0.25:
                entry, asked = await asyncio.to_thread(_finished, server, prompt_id, deadline), time.monotonic()
            try:
                message = await stream.receive(timeout=0.1)
            except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
                message = None

            # Done only when nothing is left to read, so that the last step and the last preview are passed on.
            if entry is not None and (message is None or stream.closed or time.monotonic() - asked > 2.0):
                return entry
            if message is None:
                continue

            if stream.closed:
                await asyncio.sleep(0.1)  # nothing more will come; only the history is left to ask
            elif message.type is aiohttp.WSMsgType.TEXT and on_progress:
                _pass_progress(json.loads(message.data), prompt_id, on_progress)
            elif message.type is aiohttp.WSMsgType.BINARY and on_preview and message.data[:4] == b"\0\0\0\1":
                on_preview(message.data[8:])  # event type 1, image format, then the picture


def _pass_progress(message: dict, prompt_id: str, on_progress: OnProgress) -> None:
    data = message.get("data", {})
    if message.get("type") == "progress" and data.get("prompt_id") == prompt_id:
        on_progress(str(data.get("node")), data["value"], data["max"])


def _request(server: Server, path: str, body: dict | None = None) -> dict:
    """A JSON answer; {} where the server answers with nothing."""
    text = _fetch(server, path, None if body is None else json.dumps(body).encode())
    return json.loads(text) if text.strip() else {}


def _fetch(server: Server, path: str, data: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"} if data is not None else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise ServerError(f"{path.partition('?')[0]} was refused ({error.code}): {_reason(error)}") from error
    except OSError as error:
        check_alive(server)
        raise ServerError(f"ComfyUI does not answer on {server.url}: {error}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """The server's reason for refusing a request, with every node at fault."""
    text = error.read().decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    problem = answer.get("error") or {}
    words = problem if isinstance(problem, str) else " ".join(filter(None, map(problem.get, ("message", "details"))))
    return "; ".join(filter(None, (words, _node_errors(answer))))


def _node_errors(answer: dict) -> str:
    """One clause a node: its id, its class, what is wrong with which input."""
    return "; ".join(
        f"node {node} ({fault.get('class_type')}): {problem.get('message')} {problem.get('details', '')}".strip()
        for node, fault in (answer.get("node_errors") or {}).items()
        for problem in fault.get("errors", [])
    )
