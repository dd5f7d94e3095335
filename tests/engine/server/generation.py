"""From a request's options and messages to llama-server's completion, and its events back to the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .runner import Runner, Scheduler
from .store import Model
from .web import Failure

# Ollama's defaults (api/types.go, DefaultOptions) where they differ from llama-server's.
_DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.1}
_NAMES = {
    name: name
    for name in (
        "seed", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
        "presence_penalty", "frequency_penalty", "stop",
    )
} | {"num_predict": "n_predict", "num_keep": "n_keep"}  # fmt: skip
_INTEGERS = ("num_ctx", "num_gpu", "num_predict", "num_keep", "seed", "top_k", "repeat_last_n")

Prompt = Callable[[Runner], "str | list[Any]"]


@dataclass(frozen=True)
class Job:
    """One completion to be run."""

    model: Model
    options: dict[str, Any]
    keep_alive: float | None
    prompt: Prompt
    format: Any = None
    gone: Callable[[], bool] = lambda: False


def merged(model: Model, given: dict[str, Any] | None) -> dict[str, Any]:
    """The model's parameters under the request's. Failure 400 where a number that must be whole is none."""
    # A null is as good as none, in a request and in a model (api/types.go, FromMap).
    options = {name: value for name, value in (model.parameters | (given or {})).items() if value is not None}
    for name in _INTEGERS:
        value = options.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value)
        ):
            raise Failure(400, f'option "{name}" must be of type integer')
    return options


def context_length(options: dict[str, Any]) -> int | None:
    value = int(options.get("num_ctx") or 0)
    return value if value > 0 else None


def num_gpu(options: dict[str, Any]) -> int | None:
    """Layers to offload, None where the request leaves it to the server (-1)."""
    value = int(options.get("num_gpu", -1))
    return value if value >= 0 else None


def chat_prompt(messages: list[dict[str, Any]]) -> Prompt:
    """The messages through llama-server's template of the model, without the oldest ones where they do not fit."""

    def render(runner: Runner) -> str:
        kept = list(messages)
        while True:
            prompt = str(runner.call("/apply-template", {"messages": kept})["prompt"])
            oldest = next((i for i, message in enumerate(kept[:-1]) if message["role"] != "system"), None)
            if oldest is None or len(runner.tokenize(prompt)) < runner.context_length:
                return prompt
            del kept[oldest]

    return render


def plain_prompt(text: str, before: list[int]) -> Prompt:
    """A text as it stands, after the tokens of an earlier answer."""
    return lambda runner: [*before, *runner.tokenize(text, special=False)] if before else text


def _fitted(runner: Runner, prompt: str | list[Any], keep: int) -> str | list[Any]:
    """The prompt, or its first ``keep`` and its last tokens where it would leave no room for an answer.

    What goes is what Ollama drops (llm/llama_server.go): half of the context behind the kept tokens.
    """
    limit = runner.context_length
    tokens = prompt if isinstance(prompt, list) else runner.tokenize(prompt)
    if len(tokens) < limit:
        return prompt
    keep = min(max(keep, 0) + 1, limit - 1)
    last = limit - max((limit - keep) // 2, 1) - keep
    return [*tokens[:keep], *tokens[len(tokens) - last :]]


def run(scheduler: Scheduler, job: Job) -> Iterator[dict[str, Any]]:
    """Events of one completion: ``{"text"}`` each, the last one with ``"tokens"`` and ``"final"`` (metrics) as well."""
    started = time.monotonic_ns()
    context = context_length(job.options)
    with scheduler.use(job.model, context, job.keep_alive, num_gpu(job.options)) as runner:
        loaded = time.monotonic_ns()
        body = {_NAMES[name]: value for name, value in (_DEFAULTS | job.options).items() if name in _NAMES}
        # Ollama's own bound on an answer: ten contexts.
        wanted, limit = int(body.get("n_predict", -1)), 10 * runner.context_length
        body["n_predict"] = wanted if 0 <= wanted <= limit else limit
        if isinstance(body.get("stop"), str):
            body["stop"] = [body["stop"]]
        if job.format == "json":
            body["json_schema"] = {}
        elif isinstance(job.format, dict):
            body["json_schema"] = job.format
        elif job.format not in (None, ""):
            raise Failure(400, f'invalid format: {job.format!r}; expected "json" or a valid JSON Schema object')
        body |= {"prompt": _fitted(runner, job.prompt(runner), int(body.get("n_keep", 4))), "return_tokens": True}
        tokens: list[int] = []
        for event in runner.complete(body, job.gone):
            tokens += event.get("tokens", [])
            # A token that is but part of a character has no text yet.
            if event.get("content"):
                yield {"text": event["content"]}
            if event.get("stop"):
                timings = event.get("timings", {})
                now = time.monotonic_ns()
                yield {
                    "text": "",
                    "tokens": tokens,
                    "final": {
                        "done_reason": "length" if event.get("stop_type") == "limit" else "stop",
                        "total_duration": now - started,
                        "load_duration": loaded - started,
                        "prompt_eval_count": int(event.get("tokens_evaluated", 0)),
                        "prompt_eval_duration": int(timings.get("prompt_ms", 0) * 1e6),
                        "eval_count": int(event.get("tokens_predicted", 0)),
                        "eval_duration": int(timings.get("predicted_ms", 0) * 1e6),
                    },
                }


def embed(scheduler: Scheduler, model: Model, texts: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Vectors of texts, and the metrics. ``given``: options, keep_alive, truncate (true unless said), dimensions."""
    started = time.monotonic_ns()
    options = given["options"]
    with scheduler.use(model, context_length(options), given["keep_alive"], num_gpu(options)) as runner:
        loaded = time.monotonic_ns()
        tokens = [runner.tokenize(text) for text in texts]
        for row in tokens:
            if len(row) > runner.context_length:
                if given.get("truncate") is False:
                    raise Failure(400, "the input length exceeds the context length")
                # The last token is the model's own end marker.
                row[runner.context_length - 1 :] = row[-1:]
        rows = []
        with runner.slots:
            for row in tokens:
                answer = runner.call("/embedding", {"content": row})
                vector = answer[0]["embedding"]
                rows.append(vector[0] if vector and isinstance(vector[0], list) else vector)
    dimensions = given.get("dimensions") or 0
    if dimensions:
        rows = [_normalized(row[:dimensions]) for row in rows]
    return {
        "embeddings": rows,
        "total_duration": time.monotonic_ns() - started,
        "load_duration": loaded - started,
        "prompt_eval_count": sum(map(len, tokens)),
    }


def _normalized(row: list[float]) -> list[float]:
    length = sum(value * value for value in row) ** 0.5
    return [value / length for value in row] if length else row
