# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as lines for people."""

from __future__ import annotations

import textwrap
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

# As many sentences about models turned down are shown; the plan as data has all of them.
SHOWN = 6
# Columns of running text.
WIDTH = 116


def table(rows: t.Sequence[t.Sequence[str]], right: t.Collection[int] = ()) -> list[str]:
    """Rows with their columns aligned, those numbered in ``right`` to the right; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def aligned(row: t.Sequence[str]) -> t.Iterator[str]:
        for column, (cell, width) in enumerate(zip(row, widths)):
            yield cell.rjust(width) if column in right else cell.ljust(width)

    return ["  ".join(aligned(row)).rstrip() for row in rows]


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else str(count)


def _rate(bound: float | None) -> str:
    return f"<= {bound:.0f}/s" if bound and bound >= 10 else f"<= {bound:.1f}/s" if bound else "-"


def plan_lines(
    plan: t.Mapping[str, t.Any],
    remarks: t.Sequence[str] = (),
    tradeoffs: t.Sequence[t.Mapping[str, t.Any]] = (),
    names: t.Mapping[str, str] | None = None,
) -> list[str]:
    """One host's plan. ``names`` are the GPUs' product names by identity."""
    names = names or {}
    lines: list[str] = []
    for instance in plan["instances"]:
        where = ", ".join(names.get(gpu) or gpu for gpu in instance["gpus"]) or "the CPU"
        lines.append(f"{instance['name']} on {where}")
        rows = [["workload", "model", "quantization", "context", "slots", "memory", "of", "weights", "KV", "compute",
                 "tokens"]]  # fmt: skip
        for model in instance["models"]:
            account = model["account"]
            rows.append(
                [
                    model["workload"],
                    model["name"],
                    model["quantization"] or "-",
                    _tokens(model["context_length"]),
                    str(model["slots"]),
                    human_bytes(account["total_bytes"]),
                    human_bytes(account["budget_bytes"]),
                    human_bytes(account["weights_bytes"]),
                    human_bytes(account["kv_cache_bytes"]),
                    human_bytes(account["compute_bytes"]),
                    _rate(model["speed"]["tokens_per_second_bound"]),
                ]
            )
        lines += ["  " + line for line in table(rows)]
        lines.append("  " + " ".join(f"{name}={value}" for name, value in sorted(instance["environment"].items())))
        for model in instance["models"]:
            lines += ["  " + line for line in _model_lines(model)]
    idle = [device["id"] for device in plan["devices"] if not device["planned_bytes"]]
    if idle:
        lines.append(f"idle: {', '.join(names.get(gpu) or gpu for gpu in idle)}")
    for change in tradeoffs:
        gpus = f", {change['gpus']} GPUs" if change["gpus"] > 1 else ""
        lines.append(
            f"{change['change']}: {' and '.join(change['models'])}, {_tokens(change['context_length'])} tokens x "
            f"{change['slots']} {'slot' if change['slots'] == 1 else 'slots'}{gpus}"
        )
    return lines + [f"note: {remark}" for remark in remarks]


def _model_lines(model: t.Mapping[str, t.Any]) -> list[str]:
    lines = [
        f"{model['workload']}: chosen by {model['order']}; confidence of the account {model['account']['confidence']}"
    ]
    if "hybrid" in model:
        part = model["hybrid"]
        lines.append(
            f"{model['workload']}: {part['layers_on_gpu']} of {model['layers'] + 1} layers on the GPU, "
            f"{human_bytes(part['host_bytes'])} in the host's memory"
        )
    if model["runner_up"]:
        lines.append(f"{model['workload']}: runner-up {model['runner_up']['model']}: {model['runner_up']['reason']}")
    rejected = model["rejected"]
    # What missed by memory says more than what a wish ruled out.
    shown = [one for one in rejected if "bytes)" in one["reason"]]
    shown = (shown + [one for one in rejected if one not in shown])[:SHOWN]
    lines += [f"{model['workload']}: not {one['model']}: {one['reason']}" for one in shown]
    if len(rejected) > len(shown):
        lines.append(
            f"{model['workload']}: {len(rejected) - len(shown)} more were turned down; the plan as data has them"
        )
    return lines


def explained_lines(terms: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Every term of an account as a table with the sum of each GPU, and below it each rule once."""
    if not terms:
        return []
    by_device: dict[str, list[t.Mapping[str, t.Any]]] = {}
    for term in terms:
        by_device.setdefault(term["device"], []).append(term)
    # What lies on no device comes last.
    apart = ("host", "scheduler", "token")
    rows = [["device", "term", "bytes", "MiB", "rule"]]
    for device in sorted(by_device, key=lambda name: apart.index(name) if name in apart else -1):
        rows += [
            [device, term["term"], str(term["bytes"]), _mebibytes(term["bytes"]), term["rule_name"]]
            for term in by_device[device]
        ]
        if device not in apart:
            total = sum(term["bytes"] for term in by_device[device])
            rows.append([device, "total", str(total), _mebibytes(total), ""])
    rules = {term["rule_name"]: term["rule"] for term in terms}
    indent = max(map(len, rules)) + 4
    told = []
    for name, text in rules.items():
        told += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {name}".ljust(indent), subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )  # fmt: skip
    return [f"the account of {terms[0]['model']}", *table(rows, right=(2, 3)), "its rules", *told]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f}"


def purchase_lines(rows: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Which GPUs serve the workloads, by memory."""
    told = [["GPUs", "kind", "memory", "runs", "tokens"]]
    for row in rows:
        told.append(
            [
                f"{row['count']} x {row['gpu']}",
                row["kind"],
                human_bytes(row["memory_bytes"]),
                ", ".join(
                    f"{model['model']} {_tokens(model['context_length'])} x {model['slots']}" for model in row["models"]
                ),
                _rate(row["models"][0]["tokens_per_second_bound"]),
            ]
        )
    return table(told)


def fleet_lines(
    serves: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]], idle: t.Mapping[str, t.Sequence[str]]
) -> list[str]:
    """What serves what in a fleet, and what runs nothing."""
    rows = [["workload", "host", "model", "context", "slots", "GPUs"]]
    for workload, hosts in serves.items():
        for one in hosts:
            rows.append(
                [workload, one["host"], one["model"], _tokens(one["context_length"]), str(one["slots"]),
                 str(one["gpus"] or "CPU")]
            )  # fmt: skip
    return table(rows) + [f"idle on {name}: {', '.join(devices)}" for name, devices in sorted(idle.items())]
