"""Where the stand-in's answers differ from the recorded ones, and why: (recording, what it begins with) → reason.

The replay fails on a difference that is not here, and on one here that is no more.
"""

from __future__ import annotations

_BUFFERS = "another build of llama.cpp: its buffers differ by 0.5 MiB (within 1 MiB, held by a test of its own)"

ALL: dict[tuple[str, str], str] = {
    ("ps loaded", "body.models[0].size"): _BUFFERS,
    ("ps after num_ctx", "body.models[0].size"): _BUFFERS,
}

# The stand-in imitates 0.32; this is what changed since 0.17.
_TEMPLATE = "0.32 leaves chats to llama-server's template, 0.17 puts the text as it is through TEMPLATE {{ .Prompt }}"
_MANIFEST = "0.17 writes diff_ids into the configuration and the server's own blob path into the manifest"
_MORE_TOLD = "since 0.32 the list tells context length, embedding length and capabilities"
_STEP = "0.32 has one more step, verifying conversion"
_ROLE = "0.17 repeats the role in every chunk and gives the reason with the last text, not after it"

AGAINST_0_17_7: dict[tuple[str, str], str] = {
    ("version", "body.version"): "the version itself",
    ("show unknown", "body.error"): "0.32 names the model in full",
    ("chat unknown v1", "body.error.type"): "0.32 has a type of its own for what is not found",
    ("create from gguf", "line"): _STEP,
    ("tags two", "body.models[0].capabilities"): _MORE_TOLD,
    ("tags two", "body.models[0].details.context_length"): _MORE_TOLD,
    ("tags two", "body.models[0].details.embedding_length"): _MORE_TOLD,
    ("tags two", "body.models[0].details{}"): _MORE_TOLD,
    ("tags two", "body.models[0].details.parent_model"): "0.17 does not tell the parent",
    ("tags two", "body.models[0].digest"): _MANIFEST,
    ("tags two", "body.models[0].size"): _MANIFEST,
    ("tags two", "body.models[0]{}"): _MORE_TOLD,
    ("tags two", "body.models[1].capabilities"): _MORE_TOLD,
    ("tags two", "body.models[1].details"): _MORE_TOLD,
    ("tags two", "body.models[1].digest"): _MANIFEST,
    ("tags two", "body.models[1].size"): _MANIFEST,
    ("tags two", "body.models[1]{}"): _MORE_TOLD,
    ("show", "body.details.parent_model"): _MANIFEST,
    ("ps loaded", "body.models[0].digest"): _MANIFEST,
    ("ps loaded", "body.models[0].size"): "0.17 counts its own engine's graph",
    ("ps after num_ctx", "body.models[0].digest"): _MANIFEST,
    ("ps after num_ctx", "body.models[0].size"): "0.17 counts its own engine's graph",
    ("chat", "body.prompt_eval_count"): _TEMPLATE,
    ("chat stream", "line 1.prompt_eval_count"): _TEMPLATE,
    ("v1 chat", "body.usage"): _TEMPLATE,
    ("v1 chat stream", "line"): _ROLE,
    ("embed on generation model", "body.error"): "since 0.32 it is llama-server that refuses",
    ("tags after pull", "body.models[0].capabilities"): _MORE_TOLD,
    ("tags after pull", "body.models[0].details"): _MORE_TOLD,
    ("tags after pull", "body.models[0].digest"): _MANIFEST,
    ("tags after pull", "body.models[0].size"): _MANIFEST,
    ("tags after pull", "body.models[0]{}"): _MORE_TOLD,
}
