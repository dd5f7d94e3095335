"""playbooks/benchmark.yml against a model that computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import plays
from tests.engine.conftest import Engine

MODEL = "bench:latest"


@pytest.fixture(scope="module")
def measured(start: Callable[..., Engine], generative: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The playbook's report on an engine with two slots, and what its table said."""
    engine = start(OLLAMA_NUM_PARALLEL="2", OLLAMA_CONTEXT_LENGTH="1024")
    engine.add(MODEL, generative)
    directory = tmp_path_factory.mktemp("benchmark")
    plan = {"instances": [{"models": [{"name": MODEL, "use": "chat", "slots": 2, "gpus": []}]}]}
    (directory / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    node = {**plays.local(), "ansible_become": False, "models_engine_url": f"http://127.0.0.1:{engine.port}"}
    inventory = directory / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"children": {"llm_nodes": {"hosts": {"node1": node}}}}}))
    wishes = {
        "benchmark_plan_path": str(directory / "plan.json"), "benchmark_dir": str(directory),
        "benchmark_concurrency": [1, 2, 4], "benchmark_prompt_tokens": [200], "benchmark_answer_tokens": [24],
        "benchmark_requests_per_stream": 3, "benchmark_timeout": 120,
    }  # fmt: skip
    run = plays.run("playbooks/benchmark.yml", inventory=inventory, variables=wishes)
    assert run.returncode == 0, run.stdout
    (found,) = json.loads((directory / "benchmark.json").read_text(encoding="utf-8"))["runs"]
    return {**found, "output": run.stdout}


def test_every_step_was_answered_whole(measured: dict) -> None:
    assert [(row["prefix_cache"], row["concurrency"]) for row in measured["steps"]] == [
        (cache, streams) for cache in ("cold", "warm") for streams in (1, 2, 4)
    ]
    for row in measured["steps"]:
        assert row["errors"] == {}, row
        assert row["completed"] + row["empty"] == row["requests"] == 3 * row["concurrency"]
        # This model's words have from two to six tokens.
        assert row["prompt_tokens_mean"] == pytest.approx(200, rel=0.25)


def test_a_queue_shows_in_the_first_token(measured: dict) -> None:
    cold = {row["concurrency"]: row["first_token_seconds"]["p95"] for row in measured["steps"][:3]}
    assert cold[4] > cold[1]
    assert "node1 (engine), bench:latest" in measured["output"]
