"""The collection's own account, plugins/module_utils/_memory.py."""

from __future__ import annotations

from functools import cache

from ansible_collections.onprem.llm.plugins.module_utils import _llama_cpp, _memory

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator


@cache
def shape(model: Model) -> _memory.Shape:
    return _memory.shape_from_header(model.header)


def estimate(model: Model, row: Row) -> Answer:
    run = _memory.Run(
        context_length=row.context,
        sequences=row.sequences,
        key_type=row.key_type,
        value_type=row.value_type,
        flash_attention=row.flash_attention,
        batch=row.ubatch,
        logits_rows=row.logits_rows,
        rules=_llama_cpp.RELEASES[row.llama_cpp],
    )
    devices = _memory.Devices(
        gpus=row.split or (1.0,) * row.gpus,
        layers_on_gpu=row.gpu_layers,
        expert_layers_on_host=row.expert_layers_on_host,
    )
    placed = _memory.place(shape(model), run, devices)
    return Answer([part.total for part in placed.gpus] or [placed.host.total], placed.confidence != "low")


ESTIMATOR = Estimator("onprem.llm", "plugins/module_utils/_memory.py", estimate)
