# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi says, and what becomes of it. The texts have the form of real output, the values are made up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_health
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_smi as smi
from gpu_answers import L40S, MIB, MIG, RTX, UUID
from hypothesis import given
from hypothesis import strategies as st


def test_reads_two_gpus_of_different_kinds() -> None:
    gpus, version, problems = smi.parse_query(RTX + L40S)
    assert (version, problems) == ("595.80", [])
    assert [gpu["index"] for gpu in gpus] == [0, 1], "in the driver's order"
    assert gpus[0] == {
        "index": 0, "uuid": UUID, "name": "NVIDIA L40S", "memory_total_bytes": 46068 * MIB,
        "memory_free_bytes": 45460 * MIB, "memory_used_bytes": 0, "compute_capability": "8.9",
        "pci_bus_id": "00000000:01:00.0", "pci_device_id": "0x26B910DE", "mig_mode": None, "mig_mode_pending": None,
        "mig_devices": [], "ecc_mode": "Enabled", "ecc_mode_pending": "Enabled", "display_active": "Disabled",
        "persistence_mode": "Disabled", "compute_mode": "Default", "temperature_celsius": 63,
        "temperature_margin_celsius": 25, "temperature_slowdown_celsius": 88, "power_draw_watts": 144.97,
        "power_limit_watts": 350.0,
        "power_limit_min_watts": 100.0, "power_limit_max_watts": 350.0, "power_limit_default_watts": 350.0,
        "clocks_event_reasons": ["sw_power_cap"], "ecc_errors_uncorrected": 0,
        "row_remap": {"correctable": 0, "uncorrectable": 0, "pending": False, "failure": False},
        "retired_pages_pending": None, "recovery_action": "None", "fabric_state": None, "processes": None,
        "nvlink_active": None, "architecture": "ada",
    }  # fmt: skip
    assert (gpus[1]["ecc_mode"], gpus[1]["display_active"], gpus[1]["row_remap"]) == (None, "Enabled", None)


HEADER = ", ".join(smi.FIELDS) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEADER + L40S, id="header line"),
        pytest.param(L40S.replace("46068,", "46068 MiB,").replace("45460,", "45460 MiB,"), id="units"),
        pytest.param("\n" + L40S + "\n", id="empty lines"),
        pytest.param(L40S.replace(", ", ","), id="no spaces"),
    ],
)
def test_reads_other_forms_of_the_same_answer(text: str) -> None:
    [gpu] = smi.parse_query(text)[0]
    assert (gpu["memory_total_bytes"], gpu["memory_free_bytes"]) == (46068 * MIB, 45460 * MIB)


def test_a_name_may_hold_a_comma() -> None:
    [gpu] = smi.parse_query(L40S.replace("NVIDIA L40S", "NVIDIA Graphics, Engineering Sample"))[0]
    assert gpu["name"] == "NVIDIA Graphics, Engineering Sample"
    assert gpu["memory_total_bytes"] == 46068 * MIB


@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]", "N/A", "", "[Not Found]", "ERR!", "[Unknown Error]"])
def test_what_the_driver_does_not_tell_is_none(nothing: str) -> None:
    [gpu] = smi.parse_query(L40S.replace("46068", nothing).replace("45460", nothing).replace("8.9", nothing))[0]
    assert (gpu["memory_total_bytes"], gpu["memory_free_bytes"], gpu["compute_capability"]) == (None, None, None)


@pytest.mark.parametrize("cells", [("46068", "45460"), ("46068",), ("45460",)])
@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]"])
def test_memory_that_is_not_told_is_a_problem(cells: tuple[str, ...], nothing: str) -> None:
    text = L40S
    for cell in cells:
        text = text.replace(cell, nothing)
    _gpus, _version, problems = smi.parse_query(text)
    assert [item["code"] for item in problems] == ["memory_unknown"]


def test_a_divided_gpu_needs_no_memory_of_its_own() -> None:
    [gpu], _version, problems = smi.parse_query(MIG.replace("143103", "[N/A]"))
    assert (gpu["mig_mode"], problems) == ("Enabled", [])


def test_a_mode_is_enabled_or_disabled_or_not_told() -> None:
    deprecated = "[Requested functionality has been deprecated]"
    [gpu] = smi.parse_query(L40S.replace("Disabled, Disabled, 595", f"{deprecated}, {deprecated}, 595"))[0]
    assert (gpu["display_active"], gpu["persistence_mode"]) == (None, None)


MODES = "[N/A], [N/A], Enabled, Enabled"


@pytest.mark.parametrize(
    ("modes", "code", "way_out"),
    [
        ("Disabled, Enabled, Enabled, Enabled", "mig_mode_pending", "-mig 0"),
        ("Enabled, Disabled, Enabled, Enabled", "mig_mode_pending", "-mig 1"),
        ("[N/A], Enabled, Enabled, Enabled", "mig_mode_pending", "-mig 0"),
        ("[N/A], [N/A], Enabled, Disabled", "ecc_mode_pending", "-e 1"),
        ("[N/A], [N/A], Disabled, Enabled", "ecc_mode_pending", "-e 0"),
    ],
)
def test_a_mode_that_the_next_reset_changes_is_told_with_the_way_back(modes: str, code: str, way_out: str) -> None:
    [gpu] = smi.parse_query(L40S.replace(MODES, modes))[0]
    [found] = _gpu_health.problems(gpu)
    assert found["code"] == code
    assert f"nvidia-smi -i 0 {way_out})" in found["message"]


@pytest.mark.parametrize("modes", ["Disabled, Disabled, Enabled, Enabled", "[N/A], Disabled, [N/A], [N/A]", MODES])
def test_modes_that_stay_are_no_problem(modes: str) -> None:
    assert _gpu_health.problems(smi.parse_query(L40S.replace(MODES, modes))[0][0]) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library: 595.80", "version_mismatch"),
        ("Unable to determine the device handle for GPU0000:65:00.0: Unknown Error", "device_lost"),
        ("Unable to determine the device handle for gpu 0000:65:00.0: GPU is lost.  Reboot the system", "device_lost"),
        ("Failed to initialize NVML: Insufficient Permissions", "no_permission"),
        ("Failed to initialize NVML: GPU access blocked by the operating system", "blocked"),
        ("Failed to initialize NVML: Unknown Error", "nvml_failed"),
        ("Failed to initialize NVML: Driver Not Loaded", "driver_not_loaded"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure ...",
            "driver_not_loaded",
        ),
        ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", "library_missing"),
        ('Field "mig.mode.current" is not a valid field to query.', "driver_too_old"),
        ("No devices were found", "no_devices"),
        ("Segmentation fault", "nvidia_smi_failed"),
        ("", "nvidia_smi_failed"),
    ],
)
def test_failures_have_a_code_and_a_sentence(text: str, code: str) -> None:
    [found] = smi.parse_failure(text)
    assert found["code"] == code
    assert (text.splitlines() or ["no output"])[0] in found["message"]


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    gpus, _version, _problems = smi.parse_query(text)
    assert all(isinstance(gpu["index"], int) for gpu in gpus)
    assert smi.parse_failure(text)


@given(
    st.lists(
        st.text(st.characters(blacklist_characters=",\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")),
        min_size=len(smi.FIELDS) - 1,
        max_size=len(smi.FIELDS) - 1,
    )
)
def test_any_cells_are_read(cells: list[str]) -> None:
    [gpu], _version, _problems = smi.parse_query(", ".join(["7", *cells]) + "\n")
    assert gpu["index"] == 7


# One line a card in the form of its driver: recorded of the first four (595.71.05, 590.48.01, 595.80), the others by
# NVIDIA's documentation of the fields.
CARDS = {
    "RTX 4080 SUPER, busy": (
        (f"0, {UUID}, NVIDIA GeForce RTX 4080 SUPER, 16376, 14470, 1474, 8.9, 00000000:01:00.0, [N/A], [N/A], [N/A], "
        "[N/A], Enabled, Disabled, 595.71.05, 0x270210DE, Default, 46, [N/A], 84.24, 320.00, 150.00, 400.00, 320.00, "
        "0x0000000000000000, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], None, N/A"),
        {"architecture": "ada", "clocks_event_reasons": [], "row_remap": None, "temperature_slowdown_celsius": None},
    ),
    "H200 with MIG": (
        MIG,
        {"architecture": "hopper", "clocks_event_reasons": ["gpu_idle"], "row_remap": None, "mig_mode": "Enabled",
         "temperature_slowdown_celsius": 87, "fabric_state": "Completed", "ecc_errors_uncorrected": 0},
    ),
    "L40S": (L40S, {"architecture": "ada", "retired_pages_pending": None, "power_draw_watts": 144.97}),
    "L40S with its units": (
        L40S.replace("144.97", "144.97 W").replace("46068", "46068 MiB"),
        {"power_draw_watts": 144.97, "memory_total_bytes": 46068 * MIB},
    ),
    "V100, driver 470": (
        (f"0, {UUID}, Tesla V100-SXM2-32GB, 32510, 32505, 5, 7.0, 00000000:1A:00.0, [N/A], [N/A], Enabled, Enabled, "
        "Disabled, Enabled, 470.256.02, 0x1DB510DE, Default, 35, [N/A], 42.61, 300.00, 150.00, 300.00, 300.00, "
        "0x0000000000000001, 2, [N/A], [N/A], [N/A], [N/A], Yes, [N/A], [N/A]"),
        {"architecture": "volta", "retired_pages_pending": True, "row_remap": None, "ecc_errors_uncorrected": 2,
         "recovery_action": None},
    ),
    "A100, a row to be remapped": (
        (f"0, {UUID}, NVIDIA A100-SXM4-80GB, 81920, 81038, 0, 8.0, 00000000:07:00.0, Disabled, Disabled, Enabled, "
        "Enabled, Disabled, Enabled, 535.183.01, 0x20B210DE, Default, 31, [N/A], 61.24, 400.00, 100.00, 400.00, "
        "400.00, 0x0000000000000001, 1, 0, 1, Yes, No, [N/A], [N/A], [N/A]"),
        {"architecture": "ampere", "row_remap": {"correctable": 0, "uncorrectable": 1, "pending": True,
                                                 "failure": False}},
    ),
    "T4, hot and throttled": (
        (f"0, {UUID}, Tesla T4, 15360, 14900, 100, 7.5, 00000000:00:1E.0, [N/A], [N/A], Enabled, Enabled, Disabled, "
        "Disabled, 550.163.01, 0x1EB810DE, Default, 93, [N/A], 27.10, 70.00, 60.00, 70.00, 70.00, "
        "0x0000000000000068, 0, [N/A], [N/A], [N/A], [N/A], No, [N/A], [N/A]"),
        {"architecture": "turing",
         "clocks_event_reasons": ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown"]},
    ),
    "RTX 5090": (
        (f"0, {UUID}, NVIDIA GeForce RTX 5090, 32607, 32100, 10, 12.0, 00000000:01:00.0, [N/A], [N/A], [N/A], [N/A], "
        "Disabled, Disabled, 610.43.02, 0x2B8510DE, Exclusive_Process, 41, 49, 20.10, 575.00, 400.00, 600.00, 575.00, "
        "0x0000000000000200, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], Reset, N/A"),
        {"architecture": "blackwell", "clocks_event_reasons": ["0x200"], "temperature_slowdown_celsius": 90,
         "compute_mode": "Exclusive_Process", "recovery_action": "Reset"},
    ),
    "a card of tomorrow": (
        (f"0, {UUID}, NVIDIA X, 999999, 999990, 1, 14.0, 00000000:01:00.0, Disabled, Disabled, Enabled, Enabled, "
        "Disabled, Enabled, 700.10, 0x400010DE, Default, 30, [Not Supported], [Unknown Error], ERR!, [N/A], [N/A], "
        "[N/A], [Not Found], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]"),
        {"architecture": None, "clocks_event_reasons": None, "power_draw_watts": None, "power_limit_watts": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_cards_and_drivers_of_all_ages(name: str) -> None:
    line, wanted = CARDS[name]
    [gpu] = smi.parse_query(line + "\n")[0]
    assert {key: gpu[key] for key in wanted} == wanted
    assert gpu["memory_total_bytes"]
    assert gpu["memory_free_bytes"]


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("RTX 4080 SUPER, busy", []),
        ("H200 with MIG", []),
        ("L40S", []),
        ("V100, driver 470", ["ecc_uncorrected", "retired_pages_pending"]),
        ("A100, a row to be remapped", ["ecc_uncorrected", "row_remap_pending"]),
        ("T4, hot and throttled", ["thermal_slowdown"]),
        ("RTX 5090", ["compute_mode", "recovery_due"]),
        ("a card of tomorrow", []),
    ],
)
def test_what_its_values_say_of_a_cards_health(name: str, codes: list[str]) -> None:
    [gpu] = smi.parse_query(CARDS[name][0] + "\n")[0]
    found = _gpu_health.problems(gpu)
    assert [item["code"] for item in found] == codes
    assert all(item["message"].startswith("GPU 0: ") for item in found)


def test_a_fault_of_each_value_is_told() -> None:
    [gpu] = smi.parse_query(L40S)[0]
    sick = {
        "row_remap_failure": {"row_remap": {"pending": False, "failure": True}},
        "power_brake": {"clocks_event_reasons": ["hw_power_brake_slowdown"]},
        "gpu_too_old": {"architecture": "older"},
        "compute_mode": {"compute_mode": "Prohibited"},
    }
    for code, values in sick.items():
        assert [item["code"] for item in _gpu_health.problems({**gpu, **values})] == [code]
    [hot] = _gpu_health.problems({**gpu, "clocks_event_reasons": ["sw_thermal_slowdown"]})
    assert "63 °C, slowed down from 88 °C on" in hot["message"]


def helped(known: Sequence[str]) -> str:
    """--help-query-gpu of an nvidia-smi that knows these."""
    titles = [f'"{field}"' if isinstance(field, str) else " or ".join(f'"{one}"' for one in field) for field in known]
    return 'List of valid properties to query for the switch "--query-gpu":\n\n' + "".join(
        f"{title}\nWhat it says.\n\nSection about something properties\n" for title in titles
    )


class OtherVersion:
    """An nvidia-smi that knows only some fields."""

    def __init__(self, known: Sequence[str], line: str, help_text: str | None = None) -> None:
        self.known, self.asked = set(known), []  # type: set[str], list[str]
        self.values = dict(zip(smi.FIELDS, [cell.strip() for cell in line.split(",")]))
        self.values |= {"clocks_throttle_reasons.active": self.values["clocks_event_reasons.active"],
                        "kmd_version": self.values["driver_version"]}  # fmt: skip
        self.help_text = helped(known) if help_text is None else help_text

    def __call__(self, argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        self.asked.append(argv[1].split("=")[0])
        if argv[1] == "--help-query-gpu":
            return 0, self.help_text, ""
        fields = argv[1].split("=")[1].split(",")
        unknown = next((field for field in fields if field not in self.known), None)
        if unknown:
            return 2, f'Field "{unknown}" is not a valid field to query.\n\n', ""
        return 0, ", ".join(self.values[field] for field in fields) + "\n", ""


QUERY, HELP = "--query-gpu", "--help-query-gpu"
LATE = ("temperature.gpu.tlimit", "gpu_recovery_action", "fabric.state", "clocks_event_reasons.active")


def test_an_older_nvidia_smi_is_asked_again_for_what_it_knows() -> None:
    known = [field for field in smi.FIELDS if field not in LATE] + ["clocks_throttle_reasons.active"]
    older = OtherVersion(known, CARDS["T4, hot and throttled"][0])
    [gpu], version, [told] = smi.query("nvidia-smi", 5, older)
    assert older.asked == [QUERY, HELP, QUERY]
    assert (version, gpu["temperature_celsius"], gpu["power_limit_max_watts"]) == ("550.163.01", 93, 70.0)
    assert gpu["clocks_event_reasons"] == ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown"]
    assert told["code"] == "fields_unknown"
    assert told["message"].endswith("temperature.gpu.tlimit, gpu_recovery_action, fabric.state")


def test_a_newer_nvidia_smi_that_renamed_is_understood_without_a_word() -> None:
    known = [field for field in smi.FIELDS if field != "driver_version"] + ["kmd_version"]
    [gpu], version, problems = smi.query("nvidia-smi", 5, OtherVersion(known, L40S))
    assert (version, problems, gpu["power_draw_watts"]) == ("595.80", [], 144.97)


def test_where_its_help_cannot_be_read_the_least_is_asked() -> None:
    other = OtherVersion(smi.BASE_FIELDS, L40S, help_text="Invalid combination of input arguments.\n")
    [gpu], version, [told] = smi.query("nvidia-smi", 5, other)
    assert (version, gpu["memory_total_bytes"], gpu["temperature_celsius"]) == ("595.80", 46068 * MIB, None)
    assert told["code"] == "fields_unknown"


def test_a_driver_before_mig_is_too_old_and_its_gpus_are_shown_all_the_same() -> None:
    known = [field for field in smi.FIELDS if not field.startswith("mig.") and field not in LATE]
    [gpu], _version, [told] = smi.query("nvidia-smi", 5, OtherVersion(known, CARDS["V100, driver 470"][0]))
    assert (gpu["name"], gpu["mig_mode"]) == ("Tesla V100-SXM2-32GB", None)
    assert told["code"] == "driver_too_old"
    assert "pci.bus_id" not in told["message"]


def test_one_that_knows_nothing_ends() -> None:
    gpus, _version, [told] = smi.query("nvidia-smi", 5, OtherVersion([], L40S))
    assert (gpus, told["code"]) == ([], "driver_too_old")


def test_help_has_each_field_under_all_its_names() -> None:
    text = helped(["index", ("clocks_event_reasons.active", "clocks_throttle_reasons.active")])  # type: ignore[list-item]
    assert smi.parse_help(text) == {"index", "clocks_event_reasons.active", "clocks_throttle_reasons.active"}
