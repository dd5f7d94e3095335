"""What users have: the official Python clients of OpenAI and Ollama, through the gateway, over TLS with the CA."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable

import ollama
import openai
import pytest

CHAT, EMBEDDING = "gemma3:270m", "tiny-embedding:latest"
QUESTION = [{"role": "user", "content": "One, two, three,"}]
TOKENS = 32


@pytest.fixture(scope="module")
def key(secrets: dict) -> str:
    return secrets["users"]["app"]["api_key"]


@pytest.fixture(scope="module")
def openai_client(gateway, ca_file: str) -> Callable[[str], openai.OpenAI]:
    def client(key: str) -> openai.OpenAI:
        transport = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=ca_file), trust_env=False)
        return openai.OpenAI(
            base_url=f"https://{gateway.address}/v1", api_key=key, http_client=transport, max_retries=0, timeout=120
        )

    return client


@pytest.fixture(scope="module")
def ollama_client(gateway, ca_file: str) -> Callable[[str], ollama.Client]:
    def client(key: str) -> ollama.Client:
        return ollama.Client(
            host=f"https://{gateway.address}",
            headers={"Authorization": f"Bearer {key}"},
            verify=ssl.create_default_context(cafile=ca_file),
            trust_env=False,
            timeout=120,
        )

    return client


def arrivals(texts: Iterable[str | None]) -> list[float]:
    """Seconds after which each piece of text was there."""
    started = time.monotonic()
    return [time.monotonic() - started for text in texts if text]


def assert_streamed(times: list[float]) -> None:
    """Pieces came while the model was still writing: gathered by a proxy on the way, all would come with the last."""
    assert len(times) >= TOKENS // 2
    assert times[0] < times[-1] * 0.7
    assert len({round(moment, 3) for moment in times}) >= TOKENS // 4


def test_openai_client_completes(openai_client, key: str) -> None:
    answer = openai_client(key).chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=TOKENS, seed=1)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == TOKENS


def test_openai_client_streams(openai_client, key: str) -> None:
    chunks = openai_client(key).chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=TOKENS, seed=1, stream=True
    )
    assert_streamed(arrivals(chunk.choices[0].delta.content for chunk in chunks if chunk.choices))


def test_openai_client_embeds(openai_client, key: str) -> None:
    rows = openai_client(key).embeddings.create(model=EMBEDDING, input=["a text", "another"]).data
    assert [len(row.embedding) for row in rows] == [128, 128]
    assert rows[0].embedding != rows[1].embedding


def test_openai_client_lists_the_models(openai_client, key: str) -> None:
    assert {CHAT, EMBEDDING} <= {model.id for model in openai_client(key).models.list()}


@pytest.mark.contract(7)
def test_openai_client_without_a_key_of_ours_is_told_so(openai_client) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai_client("not-a-key").chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=1)


def test_ollama_client_completes(ollama_client, key: str) -> None:
    answer = ollama_client(key).chat(CHAT, messages=QUESTION, options={"num_predict": TOKENS, "seed": 1})
    assert answer.message.content
    assert answer.eval_count == TOKENS


def test_ollama_client_streams(ollama_client, key: str) -> None:
    chunks = ollama_client(key).generate(
        CHAT, prompt="One, two,", stream=True, options={"num_predict": TOKENS, "seed": 1}
    )
    assert_streamed(arrivals(chunk.response for chunk in chunks))


def test_ollama_client_embeds(ollama_client, key: str) -> None:
    rows = ollama_client(key).embed(EMBEDDING, input=["a text", "another"]).embeddings
    assert [len(row) for row in rows] == [128, 128]
    assert rows[0] != rows[1]


@pytest.mark.contract(7)
def test_ollama_client_without_a_key_of_ours_is_told_so(ollama_client) -> None:
    with pytest.raises(ollama.ResponseError) as refusal:
        ollama_client("not-a-key").chat(CHAT, messages=QUESTION)
    assert refusal.value.status_code == 401
