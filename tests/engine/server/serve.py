"""``ollama serve``: start, listen, end at once when told to."""

from __future__ import annotations

import os
import signal
import sys
import threading

from . import openai, runner, store, web
from .api import Api, explain, inference_compute
from .settings import VERSION, Settings


def _error_response(path: str, status: int, message: str) -> web.Response:
    if path.startswith("/v1/"):
        return openai.error_response(status, message)
    return web.json_response({"error": message}, status)


def main(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    environment = {name: value for name, value in sorted(os.environ.items()) if name.startswith("OLLAMA_")}
    runner.log("INFO", "server config", env=f"map[{' '.join(f'{k}:{v}' for k, v in environment.items())}]")
    try:
        # Ollama keeps its key here and does not start where it cannot.
        identity = settings.home / ".ollama"
        identity.mkdir(parents=True, exist_ok=True)
        (identity / "id_ed25519").touch(mode=0o600)
        models = store.Store(settings.models)
        pruned = 0 if settings.no_prune else models.prune()
    except OSError as error:
        print(f"Error: {error.strerror}: {error.filename}", file=sys.stderr)
        raise SystemExit(1) from error
    runner.log("INFO", "total unused blobs removed", count=pruned)
    scheduler = runner.Scheduler(settings)
    api = Api(settings, models, scheduler)
    routes = api.routes() | openai.OpenAI(api).routes()
    try:
        server = web.Server((settings.host, settings.port), routes, explain, _error_response, settings.origins)
    except OSError as error:
        print(f"Error: listen tcp {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from error
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # As the container's first process it has no default handling of either.
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True).start()
    runner.log("INFO", f"Listening on {settings.host}:{settings.port} (version {VERSION})")
    inference_compute(scheduler.devices)
    ended.wait()
    scheduler.stop()
    sys.stderr.flush()
    # Threads of open streams are not waited for, nor Python's own tidying up.
    os._exit(0)
