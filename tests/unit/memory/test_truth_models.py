"""The models and settings that truth about memory is made of. Nothing is planned here: that needs llama.cpp."""

from __future__ import annotations

import random

import gguf
import pytest

from tests.memory.truth import drawn, models, settings

MODELS = models.read()
OTHER_LENGTHS = {  # of lists that are not one value a layer
    "rope.dimension_sections": 4,
    "ple.layers": 1,
    "adapters.token_ids_activate": 4,
    "adapters.token_ids_substitute": 4,
}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("output.weight", ["output.weight"]),
        ("blk.*.attn_q.bias", ["blk.0.attn_q.bias", "blk.1.attn_q.bias", "blk.2.attn_q.bias"]),
        ("enc.blk.[0,2].x", ["enc.blk.0.x", "enc.blk.2.x"]),
        ("blk.[1-2,5].x", ["blk.1.x", "blk.2.x", "blk.5.x"]),
    ],
)
def test_a_pattern_names_tensors(pattern: str, names: list[str]) -> None:
    assert models.expand(pattern, 3) == names


def test_a_list_has_a_value_for_each_layer() -> None:
    wrong = [
        f"{model.name}: {key} has {len(value)}"
        for model in MODELS.values()
        for key, value in model.metadata.items()
        if isinstance(value, list)
        and not key.endswith(models.WIDE_LISTS)
        and len(value)
        != OTHER_LENGTHS.get(key, model.layers + (key == "attention.compress_ratios" and model.prediction_layer))
    ]
    assert wrong == []


def test_lists_of_n_grams_have_a_value_for_each_token_or_head() -> None:
    for model in MODELS.values():
        values = model.metadata
        if "ple.layers" not in values:
            continue
        heads = (values["ple.ngram_size"] - 1) * values["ple.heads_per_ngram"]
        lengths = [len(values[key]) for key in models.WIDE_LISTS]
        assert (model.name, lengths) == (model.name, [values["ple.ngram_size"], heads, heads])
        assert heads * values["embedding_length_per_layer_input"] == values["embedding_length"]


def test_optional_tensors_are_of_layers_that_exist() -> None:
    wrong = []
    for model in MODELS.values():
        for pattern in (*model.optional_tensors, *model.integer_tensors):
            layers = [
                int(part) for name in models.expand(pattern, model.layers) for part in name.split(".") if part.isdigit()
            ]
            if layers and max(layers) >= model.layers:
                wrong.append(f"{model.name}: {pattern}")
    assert wrong == []


def test_a_name_is_there_once(tmp_path) -> None:
    entry = "- {name: twin, architecture: llama, quantization: F16, metadata: {block_count: 1}}\n"
    (tmp_path / "models.yml").write_text(entry * 2, encoding="utf-8")
    with pytest.raises(ValueError, match="twin is there twice"):
        models.read(tmp_path / "models.yml")


def test_metadata_arrive_in_the_file(tmp_path) -> None:
    model = MODELS["glm4.5-air-mtp"]
    models.write_metadata(model, tmp_path / "m.gguf", block_count=47, nextn_predict_layers=1)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    expected = {**model.metadata, "block_count": 47, "nextn_predict_layers": 1}
    found = {key: fields[f"glm4moe.{key}"].contents() for key in expected}
    assert found == pytest.approx(expected)
    assert fields["tokenizer.ggml.model"].contents() == "no_vocab"
    assert fields["general.file_type"].contents() == 15


def test_settings_are_the_same_each_time_and_differ_by_model() -> None:
    first, second = MODELS["gemma-2b"], MODELS["gemma-7b"]
    assert settings.plan(first) == settings.plan(first)
    assert settings.plan(first)[settings.ONE_GPU] != settings.plan(second)[settings.ONE_GPU]


def objections(model: models.Model, placement: settings.Placement, wanted: list[settings.Setting]) -> list[str]:
    """What llama.cpp could not do, or what says nothing."""
    found = []
    if len(wanted) != len(set(wanted)):
        found.append("a setting is there twice")
    if placement.experts_on_host and model.experts <= 1:
        found.append("no experts to keep on the host")
    if placement.layers != settings.ALL_LAYERS and not 0 <= placement.layers <= model.layers:
        found.append("layers that the model does not have")
    if any(setting.cache != "f16" and setting.fa == 0 for setting in wanted):
        found.append("a quantized cache without flash attention")
    if model.runs_for_embeddings and any(
        (row["np"], row["nout"]) != (1, 0) for row in map(settings.Setting.row, wanted)
    ):
        found.append("an embedding model with several sequences, or with logits of some rows only")
    return found


def test_no_setting_asks_for_what_cannot_be() -> None:
    wrong = {
        (model.name, placement): found
        for model in MODELS.values()
        for placement, wanted in settings.plan(model).items()
        if (found := objections(model, placement, wanted))
    }
    assert wrong == {}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_drawn_model_is_of_its_architecture_and_the_same_each_time(name: str) -> None:
    base = MODELS[name]
    made = [drawn.model(base, random.Random(7)) for _time in range(2)]
    assert made[0] == made[1]
    assert (made[0].architecture, set(made[0].metadata)) == (base.architecture, set(base.metadata))
    assert all(
        len(value) == len(base.metadata[key]) for key, value in made[0].metadata.items() if isinstance(value, list)
    )


def test_drawn_models_differ_in_what_the_account_goes_by() -> None:
    base = MODELS["qwen3-235b-a22b"]
    made = [drawn.model(base, random.Random(seed)) for seed in range(40)]
    for key in ("block_count", "vocab_size", "embedding_length", "attention.head_count_kv", "expert_count"):
        assert len({model.metadata[key] for model in made}) > 3, key
    assert len({model.quantization for model in made}) > 5
