"""What the recordings do not show: memory and devices, loading and unloading, streams, failures, registries."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.engine import models
from tests.engine.conftest import Engine
from tests.engine.registry import Registry

GPUS = {
    "SIMULATED_GPU_0": "GPU-00000000-0000-0000-0000-000000000000|NVIDIA L40S|46068",
    "SIMULATED_GPU_1": "GPU-11111111-1111-1111-1111-111111111111|NVIDIA L40S|46068",
}
# Room for 5 MiB beyond the reserve: the small model's weights, cache and buffers do not fit.
CRAMPED = {"SIMULATED_GPU_0": "GPU-22222222-2222-2222-2222-222222222222|NVIDIA L4|1029"}
# As much as Ollama lets an answer be: ten contexts.
LONG = {"num_ctx": 2048, "num_predict": 20480}
QUESTION = [{"role": "user", "content": "how long is the water"}]


@pytest.fixture(scope="module")
def engine(start: Callable[..., Engine], generative: Path, embedding: Path) -> Engine:
    engine = start(OLLAMA_CONTEXT_LENGTH="512", OLLAMA_NUM_PARALLEL="2", OLLAMA_MAX_LOADED_MODELS="2")
    engine.add("chat", generative)
    engine.add("embed", embedding)
    return engine


def test_chat_and_embedding_are_loaded_side_by_side(engine: Engine) -> None:
    answer = engine.post("/api/chat", model="chat", messages=QUESTION, options={"num_predict": 32})
    assert answer["message"]["content"]
    assert answer["eval_count"] == 32
    rows = engine.post("/api/embed", model="embed", input=["little water", "some people"])["embeddings"]
    assert [len(row) for row in rows] == [128, 128]
    assert all(abs(sum(value * value for value in row) - 1) < 1e-3 for row in rows)
    assert rows[0] != rows[1]
    assert engine.post("/api/embed", model="embed", input="little water")["embeddings"][0] == pytest.approx(rows[0])
    assert set(engine.loaded()) == {"chat:latest", "embed:latest"}
    assert len(engine.runners()) == 2


def test_embedding_model_neither_chats_nor_takes_more_than_one_slot(engine: Engine) -> None:
    assert engine.call("POST", "/api/generate", {"model": "embed"}) == (
        400,
        {"error": '"embed" does not support generate'},
    )
    engine.post("/api/embed", model="embed", input="water")
    assert engine.post("/api/generate", model="embed", keep_alive=0)["done_reason"] == "unload"
    assert "embed:latest" not in engine.loaded()
    engine.post("/api/embed", model="embed", input="water")
    starts = [line for line in engine.log().splitlines() if "starting llama-server" in line]
    slots = {("--embeddings" in line): line.split("--parallel ")[1].split()[0] for line in starts}
    assert slots[True] == "1"


def test_context_length_is_the_requests_and_each_slots(engine: Engine) -> None:
    engine.post("/api/generate", model="chat", keep_alive="10m")
    assert engine.loaded()["chat:latest"]["context_length"] == 512
    before, small = engine.runners(), engine.loaded()["chat:latest"]["size"]
    engine.post("/api/generate", model="chat", options={"num_ctx": 1024})
    assert engine.loaded()["chat:latest"]["context_length"] == 1024
    assert engine.loaded()["chat:latest"]["size"] > small
    assert engine.runners() != before
    assert "--ctx-size 2048 --parallel 2" in engine.log()
    # More than the model was trained for is cut down to it.
    engine.post("/api/generate", model="chat", options={"num_ctx": 1_000_000})
    assert engine.loaded()["chat:latest"]["context_length"] == 2048


def test_keep_alive(engine: Engine) -> None:
    engine.post("/api/generate", model="chat", keep_alive=-1)
    assert engine.loaded()["chat:latest"]["expires_at"] > "2300"
    engine.post("/api/chat", model="chat", messages=QUESTION, options={"num_predict": 1})
    assert engine.loaded()["chat:latest"]["expires_at"] > "2300", "a request without keep_alive leaves the pin"
    engine.post("/api/generate", model="chat", keep_alive="2s")
    assert "chat:latest" in engine.loaded()
    time.sleep(3)
    assert "chat:latest" not in engine.loaded()
    engine.post("/api/generate", model="chat")
    assert engine.post("/api/generate", model="chat", keep_alive=0)["done_reason"] == "unload"
    assert "chat:latest" not in engine.loaded()


def test_least_recently_used_model_makes_room(engine: Engine, tmp_path: Path) -> None:
    engine.add("third", models.write_generative(tmp_path / "third.gguf", quantization="Q4_0", seed=3))
    engine.post("/api/embed", model="embed", input="water")
    engine.post("/api/generate", model="chat")
    engine.post("/api/embed", model="embed", input="water")
    engine.post("/api/generate", model="third")
    assert set(engine.loaded()) == {"embed:latest", "third:latest"}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_stream_arrives_in_pieces_while_the_model_still_writes(engine: Engine, path: str) -> None:
    engine.post("/api/generate", model="chat")
    body = {"model": "chat", "messages": QUESTION, "stream": True, "max_tokens": 1500, "options": {"num_predict": 1500}}
    started = time.monotonic()
    with engine.open("POST", path, body) as response:
        first = response.read1(65536)
        arrived = time.monotonic()
        reads = 1
        while response.read1(65536):
            reads += 1
    assert b"assistant" in first
    assert reads > 20
    assert arrived - started < (time.monotonic() - started) / 2


def test_client_that_leaves_ends_its_generation(engine: Engine) -> None:
    body = {"model": "chat", "prompt": "water", "keep_alive": 0, "options": LONG}
    response = engine.open("POST", "/api/generate", body)
    response.read1(100)
    response.close()
    left = time.monotonic()
    # Nobody uses it any more, and keep_alive 0 then unloads it; all the tokens would take a good deal longer.
    while "chat:latest" in engine.loaded():
        assert time.monotonic() - left < 3
        time.sleep(0.05)


def test_killed_runner_fails_its_request_and_the_next_one_works(engine: Engine) -> None:
    with engine.open("POST", "/api/generate", {"model": "chat", "prompt": "water", "options": LONG}) as response:
        response.read1(100)
        assert engine.runners(kill=True)
        last = json.loads(response.read().splitlines()[-1])
    assert response.status == 200
    assert last == {"error": "an error was encountered while running the model: unexpected EOF"}
    answer = engine.post("/api/chat", model="chat", messages=QUESTION, options={"num_predict": 2})
    assert answer["eval_count"] == 2


def test_slots_work_at_the_same_time(engine: Engine) -> None:
    engine.post("/api/generate", model="chat")
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda seed: engine.post(
                    "/api/generate", model="chat", prompt="water", options={"num_predict": 50, "seed": seed}
                ),
                range(4),
            )
        )
    assert [answer["eval_count"] for answer in answers] == [50] * 4
    assert len(engine.runners()) <= 2


def test_truncated_file_makes_no_model(engine: Engine, generative: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(generative.read_bytes()[:-100_000])
    digest = engine.upload(broken)
    status, answer = engine.call(
        "POST", "/api/create", {"model": "broken", "files": {"a.gguf": digest}, "stream": False}
    )
    assert status == 500
    assert "failed to validate GGUF" in answer["error"]
    assert not list((engine.home / "models/blobs").glob("COPY*"))


def test_created_model_has_bytes_of_llama_quantizes_own(engine: Engine, tmp_path: Path) -> None:
    foreign = models.write_generative(tmp_path / "foreign.gguf", seed=7)
    engine.add("foreign", foreign)
    rewritten = engine.weights("foreign")
    assert rewritten.read_bytes() != foreign.read_bytes()
    own = tmp_path / "own.gguf"
    own.write_bytes(rewritten.read_bytes())
    engine.add("own", own)
    assert engine.weights("own") == rewritten


def test_file_that_llama_server_cannot_load_is_an_error(engine: Engine, tmp_path: Path) -> None:
    engine.add("broken", models.write_generative(tmp_path / "broken.gguf", seed=8))
    with engine.weights("broken").open("r+b") as file:
        file.truncate(500_000)
    status, answer = engine.call("POST", "/api/generate", {"model": "broken"})
    assert status == 500
    assert answer["error"].startswith("llama-server process has terminated: exit status 1")


def test_models_put_into_the_store_by_another_program_are_seen(engine: Engine) -> None:
    manifests = engine.home / "models/manifests/registry.ollama.ai/library"
    source = manifests / "chat/latest"
    target = manifests / "copied/tag"
    target.parent.mkdir()
    target.write_bytes(source.read_bytes())
    try:
        digests = {model["name"]: model["digest"] for model in engine.call("GET", "/api/tags")[1]["models"]}
        assert digests["copied:tag"] == digests["chat:latest"] == models.sha256(source)
    finally:
        target.unlink()


def test_health_command(engine: Engine) -> None:
    status, output = engine.command("ls")
    assert status == 0
    assert "chat:latest" in output
    assert engine.command("--version") == (0, "ollama version is 0.32.15\n")
    engine.post("/api/generate", model="chat")
    assert "100% CPU" in engine.command("ps")[1]


def test_registry_without_location_header_fails_as_upstream(engine: Engine, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    name = f"{registry.address}/library/chat:latest"
    engine.call("POST", "/api/copy", {"source": "chat", "destination": name})
    assert engine.post("/api/push", model=name, insecure=True) == {"status": "success"}
    engine.call("DELETE", "/api/delete", {"model": name})
    assert engine.post("/api/pull", model=name, insecure=True) == {"status": "success"}
    engine.call("DELETE", "/api/delete", {"model": name})
    engine.call("DELETE", "/api/delete", {"model": "chat"})
    registry.location = None
    status, answer = engine.call("POST", "/api/pull", {"model": name, "insecure": True, "stream": False})
    assert (status, answer) == (500, {"error": "http: no Location header in response"})
    assert list((engine.home / "models/blobs").glob("*-partial"))
    registry.shutdown()


def test_model_is_whole_on_one_gpu(start: Callable[..., Engine], generative: Path) -> None:
    engine = start(**GPUS)
    engine.add("chat", generative)
    engine.post("/api/generate", model="chat")
    loaded = engine.loaded()["chat:latest"]
    assert loaded["size_vram"] == loaded["size"] > generative.stat().st_size
    log = engine.log()
    assert "offloaded 3/3 layers to GPU" in log
    assert "CUDA0 model buffer size" in log
    assert "CPU" not in "".join(line for line in log.splitlines() if "buffer size" in line)
    assert "GPU-11111111-1111-1111-1111-111111111111" in log
    # 92 GB of memory on devices: the largest of Ollama's default context lengths, cut down to the model's own.
    assert loaded["context_length"] == 2048
    assert "100% GPU" in engine.command("ps")[1]


def test_num_gpu_keeps_layers_off_until_the_model_is_unloaded(start: Callable[..., Engine], generative: Path) -> None:
    engine = start(**GPUS)
    engine.add("chat", generative)
    engine.post("/api/generate", model="chat")
    assert engine.loaded()["chat:latest"]["size_vram"] > 0
    engine.post("/api/generate", model="chat", options={"num_gpu": 0})
    assert engine.loaded()["chat:latest"]["size_vram"] == 0
    assert "offloaded 0/3 layers to GPU" in engine.log()
    # As upstream (needsReload): who does not say gets what is there.
    engine.post("/api/generate", model="chat")
    assert engine.loaded()["chat:latest"]["size_vram"] == 0
    engine.post("/api/generate", model="chat", keep_alive=0)
    engine.post("/api/generate", model="chat")
    assert engine.loaded()["chat:latest"]["size_vram"] > 0


@pytest.mark.parametrize(("content", "offloaded"), [("", 1), ("1", 2), ("3", 0)])
def test_spill_switch(
    start: Callable[..., Engine], generative: Path, tmp_path: Path, content: str, offloaded: int
) -> None:
    engine = start(home=tmp_path, **GPUS)
    engine.add("chat", generative)
    (tmp_path / "simulate_spill").write_text(content, encoding="utf-8")
    engine.post("/api/generate", model="chat")
    loaded = engine.loaded()["chat:latest"]
    assert loaded["size_vram"] == loaded["size"] * offloaded // 3
    assert f"offloaded {offloaded}/3 layers to GPU" in engine.log()
    assert "CPU_Mapped model buffer size" in engine.log()
    (tmp_path / "simulate_spill").unlink()
    engine.post("/api/generate", model="chat", keep_alive=0)
    engine.post("/api/generate", model="chat")
    assert engine.loaded()["chat:latest"]["size_vram"] == loaded["size"]


def test_model_that_does_not_fit_is_spilled(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start(**CRAMPED)
    engine.add("small", models.write_generative(tmp_path / "small.gguf", size="small", quantization="Q8_0"))
    engine.post("/api/generate", model="small")
    loaded = engine.loaded()["small:latest"]
    assert 0 < loaded["size_vram"] <= 5 * 2**20 < loaded["size"]


def test_old_unreferenced_blobs_are_pruned_at_start(
    start: Callable[..., Engine], generative: Path, tmp_path: Path
) -> None:
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    for name, age in (("sha256-" + "0" * 64, 7200), ("stray-partial", 7200), ("sha256-" + "1" * 64, 60)):
        (blobs / name).write_bytes(b"")
        os.utime(blobs / name, (time.time() - age,) * 2)
    start(home=tmp_path)
    assert [path.name for path in blobs.iterdir()] == ["sha256-" + "1" * 64]


def test_it_ends_at_once_when_told_to(start: Callable[..., Engine], generative: Path) -> None:
    engine = start()
    engine.add("chat", generative)
    engine.post("/api/generate", model="chat", keep_alive=-1)
    started = time.monotonic()
    engine.container.stop(timeout=20)
    assert time.monotonic() - started < 5
    assert engine.container.wait()["StatusCode"] == 0


def test_quantized_cache_is_smaller_and_needs_flash_attention(start: Callable[..., Engine], generative: Path) -> None:
    sizes = {}
    for kind in ("f16", "q8_0", "nonsense"):
        engine = start(OLLAMA_KV_CACHE_TYPE=kind)
        engine.add("chat", generative)
        engine.post("/api/generate", model="chat")
        sizes[kind] = engine.loaded()["chat:latest"]["size"]
    assert sizes["q8_0"] < sizes["f16"] == sizes["nonsense"]
    engine = start(OLLAMA_KV_CACHE_TYPE="q8_0", OLLAMA_FLASH_ATTENTION="0")
    engine.add("chat", generative)
    status, answer = engine.call("POST", "/api/generate", {"model": "chat"})
    assert status == 500
    assert "has terminated" in answer["error"]


def test_it_does_not_start_where_its_home_cannot_be_written(client: docker.DockerClient, tag: str) -> None:
    with pytest.raises(docker.errors.ContainerError) as failure:
        client.containers.run(tag, user="12345:12345", read_only=True, environment={"HOME": "/nowhere"}, remove=True)
    assert b"Error: Read-only file system: /nowhere" in failure.value.stderr


def test_image_is_as_bare_as_upstreams(client: docker.DockerClient, tag: str) -> None:
    configuration = client.images.get(tag).attrs["Config"]
    assert (configuration["Entrypoint"], configuration["Cmd"]) == (["/bin/ollama"], ["serve"])
    assert "OLLAMA_HOST=0.0.0.0:11434" in configuration["Env"]
    assert client.images.get(tag).attrs["Size"] < 350_000_000
    found = client.containers.run(tag, entrypoint=["sh", "-c", "command -v curl wget apt-get; echo done"], remove=True)
    assert found == b"done\n"
