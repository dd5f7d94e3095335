"""The collection's own account, plugins/module_utils/_memory.py."""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _memory
from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, Unanswered

_SHAPES: dict[int, _memory.Shape] = {}


def shape(model: Model) -> _memory.Shape:
    if id(model) not in _SHAPES:
        _SHAPES[id(model)] = _memory.shape_from_header(model.header)
    return _SHAPES[id(model)]


def _account(of: _memory.Shape, row: Row) -> _memory.Account:
    """The account of exactly the row's setting: account() would choose the batch for itself."""
    if row.key_type != row.value_type or row.key_type not in _memory.KV_CACHE_TYPES:
        raise Unanswered(f"a cache of {row.key_type} and {row.value_type}")
    setting = _memory.Setting(
        row.context, row.sequences, row.key_type, bool(row.flash_attention), before_0_30=row.logits_rows == 0
    )
    context = -(-row.context // 256) * 256
    cache = _memory._cache_by_layer(of, context, row.sequences, row.ubatch, row.key_type)
    mask, hidden, compute = _memory._compute(of, setting, context, row.sequences, row.ubatch)
    return _memory.Account(
        weights=of.weights.device if row.gpus else of.weights.host,
        kv_cache=sum(cache),
        compute=compute,
        mask=mask,
        hidden=hidden,
        layer_bytes=tuple(size + kv for size, kv in zip(of.weights.layers, cache)),
        output_bytes=of.weights.output,
        confidence=of.confidence,
    )


def estimate(model: Model, row: Row) -> Answer:
    of = shape(model)
    if row.gpus and not row.on_gpus(of.layers):
        raise Unanswered("a model partly on the GPU")
    account = _account(of, row)
    known = account.confidence != "low"
    if row.gpus < 2:
        return Answer([account.weights + account.kv_cache + account.compute], known)
    return Answer(_memory.split_over(account, [int(share * 2**40) for share in row.shares]), known)


ESTIMATOR = Estimator("onprem.llm", "plugins/module_utils/_memory.py", estimate)
