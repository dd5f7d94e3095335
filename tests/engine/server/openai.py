"""The endpoints under /v1 that speak OpenAI's protocol over the same models."""

from __future__ import annotations

import base64
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

from . import generation, store
from .api import Api, chat_messages
from .web import EVENTS, PLAIN_JSON, Answer, Failure, Request, Response, Route, Stream

_CHAT: dict[str, Any] = {
    "model": str, "messages": list, "stream": bool, "stream_options": dict, "tools": list, "response_format": dict,
}  # fmt: skip
_COMPLETE: dict[str, Any] = {"model": str, "stream": bool, "stream_options": dict, "suffix": str}
_OPTIONS = ("seed", "top_p", "frequency_penalty", "presence_penalty", "stop", "temperature")


def _document(document: object, status: int = 200) -> Response:
    return Response(status, store.encode(document) + b"\n", PLAIN_JSON)


def error_response(status: int, message: str) -> Response:
    """An error as this protocol has it."""
    return _document(_error(status, message), status)


def _error(status: int, message: str) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class OpenAI:
    """The endpoints, over those of Ollama's own API."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def routes(self) -> dict[tuple[str, str], Route]:
        return {
            ("GET", "/v1/models"): self.models,
            ("GET", "/v1/models/*"): self.model,
            ("POST", "/v1/chat/completions"): self.chat,
            ("POST", "/v1/completions"): self.complete,
            ("POST", "/v1/embeddings"): self.embeddings,
        }

    @staticmethod
    def _entry(model: store.Model) -> dict[str, Any]:
        created = model.modified // 10**9
        return {"id": str(model.name), "object": "model", "created": created, "owned_by": model.name.namespace}

    def models(self, _: Request) -> Answer:
        return _document({"object": "list", "data": [self._entry(model) for model in self.api.store.models()]})

    def model(self, request: Request) -> Answer:
        return _document(self._entry(self.api.named({"model": request.parameter})))

    def chat(self, request: Request) -> Answer:
        body = request.json(_CHAT)
        if not body.get("messages"):
            raise Failure(400, "[] is too short - 'messages'")
        model = self.api.completing(body, "chat")
        if body.get("tools"):
            raise Failure(400, f"registry.ollama.ai/library/{model.name} does not support tools")
        messages = [{**message, "content": _text(message.get("content"))} for message in body["messages"]]
        prompt = generation.chat_prompt(chat_messages(model, [*model.messages, *messages]))
        return self._answer(body, request, model, prompt, chat=True)

    def complete(self, request: Request) -> Answer:
        body = request.json(_COMPLETE)
        model = self.api.completing(body, "generate")
        if body.get("suffix"):
            raise Failure(400, f"registry.ollama.ai/library/{model.name} does not support insert")
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            raise Failure(400, "invalid type for 'prompt' field")
        return self._answer(body, request, model, generation.plain_prompt(prompt, []), chat=False)

    def _answer(
        self, body: dict[str, Any], request: Request, model: store.Model, prompt: generation.Prompt, chat: bool
    ) -> Answer:
        options = {"temperature": 1.0, "top_p": 1.0} | {k: body[k] for k in _OPTIONS if body.get(k) is not None}
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if limit is not None:
            options["num_predict"] = limit
        merged = generation.merged(model, options)
        job = generation.Job(model, merged, None, prompt, _format(body.get("response_format")), request.gone)
        name = "chatcmpl" if chat else "cmpl"
        head = {
            "id": f"{name}-{random.randrange(1000)}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": body["model"],
            "system_fingerprint": "fp_ollama",
        }
        events = generation.run(self.api.scheduler, job)
        if body.get("stream"):
            pieces = _chat_stream(head, events, body) if chat else _text_stream(head, events, body)
            return Stream(pieces, EVENTS, lambda text: _event(_error(500, text)))
        texts, final = [], {}
        for event in events:
            texts.append(event["text"])
            final = event.get("final", {})
        reason = final.get("done_reason")
        message = {"role": "assistant", "content": "".join(texts)}
        choice = {"index": 0, "message": message} if chat else {"text": "".join(texts), "index": 0}
        return _document(head | {"choices": [choice | {"finish_reason": reason}], "usage": _usage(final)})

    def embeddings(self, request: Request) -> Answer:
        body = request.json({"model": str, "dimensions": int, "encoding_format": str})
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise Failure(400, "invalid input")
        model = self.api.named(body)
        settings = {"options": model.parameters, "keep_alive": None, "dimensions": body.get("dimensions")}
        answer = generation.embed(self.api.scheduler, model, texts, settings)
        rows: list[Any] = answer["embeddings"]
        if body.get("encoding_format") == "base64":
            rows = [base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in rows]
        data = [{"object": "embedding", "embedding": row, "index": index} for index, row in enumerate(rows)]
        count = answer["prompt_eval_count"]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return _document({"object": "list", "data": data, "model": body["model"], "usage": usage})


def _text(content: object) -> str:
    """A message's content: a string, or parts of which this model family takes the texts. Failure 400."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise Failure(400, "invalid message content type")


def _format(wanted: dict[str, Any] | None) -> Any:
    kind = (wanted or {}).get("type")
    if kind == "json_object":
        return "json"
    return (wanted or {}).get("json_schema", {}).get("schema") if kind == "json_schema" else None


def _usage(final: dict[str, Any]) -> dict[str, int]:
    prompt, completion = final.get("prompt_eval_count", 0), final.get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(document: object) -> bytes:
    return b"data: " + store.encode(document) + b"\n\n"


def _wants_usage(body: dict[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _chat_stream(head: dict[str, Any], events: Iterator[dict[str, Any]], body: dict[str, Any]) -> Iterator[bytes]:
    head = head | {"object": "chat.completion.chunk"}
    role: dict[str, Any] = {"role": "assistant"}
    for event in events:
        final = event.get("final")
        delta = {} if final else role | {"content": event["text"]}
        role = {}
        reason = final["done_reason"] if final else None
        yield _event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        if final and _wants_usage(body):
            yield _event(head | {"choices": [], "usage": _usage(final)})
    yield b"data: [DONE]\n\n"


def _text_stream(head: dict[str, Any], events: Iterator[dict[str, Any]], body: dict[str, Any]) -> Iterator[bytes]:
    for event in events:
        final = event.get("final")
        reason = final["done_reason"] if final else None
        yield _event(head | {"choices": [{"text": event["text"], "index": 0, "finish_reason": reason}]})
        if final and _wants_usage(body):
            yield _event(head | {"choices": [], "usage": _usage(final)})
    yield b"data: [DONE]\n\n"
