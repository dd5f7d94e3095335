# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role models refuses before the first change: each fault names the variable, its value and what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.filter.derived_models import derived_models
from ansible_collections.onprem.llm.plugins.modules import model_select
from role_templates import evaluated, role_variables

ROLE = Path(__file__).resolve().parents[3] / "roles/models"
PLANNED = {"plan": {"instances": []}}


def faults(selection: dict[str, Any] = PLANNED, **given: Any) -> list[str]:
    """The role's faults with these variables, and what model_select answered."""
    variables = role_variables("models")
    variables["models_workloads"] = [{"name": "chat", "models": ["qwen3:8b"]}]
    variables.update(given, models_selection=selection)
    found: list[str] = evaluated(variables["__models_faults"], variables)
    return found


def refused(**given: Any) -> dict[str, Any]:
    """model_select's own words where it makes no plan of these options."""
    options = {name: getattr(model_select._select.Options("0.32.15"), name) for name in model_select.OPTIONS}
    with pytest.raises(model_select._select.PlanError) as error:
        model_select._select.read(
            given.pop("workloads", [{"name": "chat"}]),
            given.pop("catalog", []),
            model_select._select.Options(**{**options, **given}),
        )
    return {"msg": str(error.value), "failed": True}


def test_what_is_right_is_no_fault() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("given", "option", "said"),
    [
        pytest.param(
            {"models_headroom_mib": -512},
            {"headroom_bytes": -512 << 20},
            "models_headroom_mib is -512; ",
            id="headroom",
        ),
        pytest.param(
            {"models_display_mib": -1}, {"display_bytes": -1 << 20}, "models_display_mib is -1; ", id="display"
        ),
        pytest.param(
            {"models_fit_target_mib": -1}, {"fit_target_bytes": -1 << 20}, "models_fit_target_mib is -1; ", id="target"
        ),
        pytest.param(
            {"models_max_instances": 0}, {"max_instances": 0}, "models_max_instances is 0; a number", id="none"
        ),
        pytest.param(
            {"models_kv_cache_type": "q8_0", "models_flash_attention": False},
            {"kv_cache_type": "q8_0", "flash_attention": False},
            "models_kv_cache_type is q8_0 while models_flash_attention is false",
            id="cache",
        ),
        pytest.param(
            {"models_workloads": [{"name": "a", "models": ["qwen3:8b"]}] * 2},
            {"workloads": [{"name": "a"}] * 2},
            "models_workloads has the name a twice",
            id="two of a name",
        ),
        pytest.param({"models_workloads": []}, {"workloads": []}, "models_workloads is empty", id="no workload"),
    ],
)
def test_an_absurd_value_is_one_fault_by_the_variables_name(
    given: dict[str, Any], option: dict[str, Any], said: str
) -> None:
    [fault] = faults(refused(**option), **given)
    assert fault.startswith(said)


@pytest.mark.parametrize("given", [{"models_threads": -2}, {"models_load_timeout": 0}])
def test_an_absurd_number_that_no_plan_needs_is_a_fault(given: dict[str, Any]) -> None:
    [(name, value)] = given.items()
    [fault] = faults(**given)
    assert fault.startswith(f"{name} is {value}; needed are ")


def test_a_workload_for_a_host_that_there_is_none_of_would_run_nowhere() -> None:
    wanted = [{"name": "chat", "hosts": ["gpu1"]}, {"name": "code", "hosts": ["gpu1", "gpu9"]}]
    [fault] = faults(models_workloads=wanted, groups={"llm_nodes": ["gpu1", "gpu2"], "all": ["gpu1", "gpu2", "gw"]})
    assert fault == "models_workloads: code has the host gpu9, which is not in llm_nodes; these are: gpu1, gpu2."
    assert faults(models_workloads=wanted) == []
    assert faults(models_workloads=[{"name": "chat", "hosts": None}], groups={"all": ["gpu1"]}) == []


def test_a_wish_or_an_entry_is_told_by_the_variable_that_has_it() -> None:
    [wish] = faults(refused(workloads=[{"name": "chat", "slots": 0}]))
    assert wish.startswith("models_workloads cannot be served: workload chat: slots is 0; ")
    [entry] = faults(refused(catalog=[{"name": "own:1b", "size_bytes": -1}]))
    assert entry.startswith("models_catalog: catalog entry own:1b: size_bytes is -1; ")


def served(**given: Any) -> list[str]:
    variables = role_variables("models")
    found: list[str] = evaluated(variables["__models_served"], given)
    return found


def test_a_derived_model_that_is_wrong_is_a_fault_among_others() -> None:
    given = [
        {"name": "clerk", "from": "qwen3:8b", "system": "You are a clerk."},
        {"name": "judge", "from": "qwen3:88b", "modelfile": "FROM qwen3:88b\n"},
        {"name": "gemma3:4b", "from": "qwen3:8b"},
        {"name": "long", "from": "qwen3:8b", "parameters": {"num_ctx": 65536}},
    ]
    names = served(models_workloads=[{"name": "chat", "models": ["qwen3:8b"]}])
    found = faults(__models_derivation=derived_models(given, names, ["gemma3:4b"]))
    assert [fault.split(";")[0] for fault in found] == [
        "models_derived: judge: from is qwen3:88b, which is no model of any workload",
        "models_derived: gemma3:4b: its name is the name of a catalog model, gemma3:4b",
        "models_derived: long: the parameter num_ctx decides how a model is loaded",
    ]


def test_a_derived_model_may_come_from_what_another_node_has_or_chose() -> None:
    chosen = {"plan": {"instances": [{"models": [{"name": "bge-m3:567m"}]}]}}
    others = {"gpu2": {"models_workloads": [{"models": ["phi4:14b"]}, "broken"], "models_selection": chosen}}
    own = [{"models": None, "preferred": ["qwen3:8b"]}]
    given = {"models_workloads": own, "groups": {"llm_nodes": ["gpu2"]}, "hostvars": others}
    found = served(models_derived=[{"name": "clerk"}], **given)
    assert found == ["qwen3:8b", "phi4:14b", "bge-m3:567m"]
    # Without one nobody asks hundreds of hosts.
    assert served(models_derived=[], **given) == ["qwen3:8b"]


def test_a_modelfile_is_read_on_the_controller(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_bytes("FROM qwen3:8b\nSYSTEM あ\n".encode("utf-16"))
    given = [{"name": "clerk", "modelfile_path": str(tmp_path / "Modelfile")}]
    assert derived_models(given, ["qwen3:8b"])["models"][0]["system"] == "あ"
    fault = derived_models([{"name": "clerk", "modelfile_path": str(tmp_path)}], ["qwen3:8b"])["faults"][0]
    assert "cannot be read on the controller: Is a directory" in fault


def test_a_file_of_the_host_that_is_no_model_is_a_fault() -> None:
    found = faults(__models_node_files={"files": [], "faults": ["house:1 has the node_path /srv/a, which is no model"]})
    assert found == ["models_catalog: house:1 has the node_path /srv/a, which is no model."]
