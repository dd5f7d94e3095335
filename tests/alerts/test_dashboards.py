"""Every query of the dashboards can be parsed, and asks for series that somebody tells."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts import promtool
from tests.alerts.test_alerts import unknown_names

DASHBOARDS = sorted((promtool.RULES.parent / "dashboards").glob("*.json"))


def panels(dashboard: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for panel in dashboard["panels"]:
        yield panel["title"], [target["expr"] for target in panel["targets"]]


def as_prometheus_gets_it(query: str) -> str:
    return re.sub(r"\$__\w+", "5m", query).replace("$instance", "a").replace("$model", "a").replace("$user", "a")


def test_there_is_one_of_each_kind() -> None:
    assert [path.stem for path in DASHBOARDS] == ["fleet", "model", "node", "user"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_queries_are_valid_and_ask_for_what_exists(path: Path, tmp_path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    queries = [query for _title, found in panels(dashboard) for query in found]
    assert len(queries) >= 8
    assert {query: unknown_names(query) for query in queries if unknown_names(query)} == {}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    asked = set(re.findall(r"\$(\w+)", " ".join(queries))) - {"__rate_interval"}
    assert asked <= variables
    # Each query becomes a rule, which promtool parses as Prometheus would.
    rules = [
        {"record": f"query_{number}", "expr": as_prometheus_gets_it(query)} for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(
        [promtool.promtool(), "check", "rules", "--lint=none", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned(path: Path) -> None:
    """No ids of a database, no data source of one site, no two panels at one place."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert "id" not in dashboard
    assert dashboard["uid"] == f"onprem-llm-{path.stem}"
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_labels_of_queries_exist() -> None:
    """What a query groups or selects by is a label that the program gives, or one of the scrape."""
    names = {label for family in promtool.families().values() for label in family.labels}
    names |= {
        "instance",
        "job",
        "le",
        "alertstate",
        "severity",
        "alertname",
        "mode",
        "mountpoint",
        "port",
        "level",
        "version",
    }
    for path in DASHBOARDS:
        for title, queries in panels(json.loads(path.read_text(encoding="utf-8"))):
            for query in queries:
                asked = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", query))
                asked |= {
                    label for part in re.findall(r"\bby \(([^)]*)\)", query) for label in re.findall(r"\w+", part)
                }
                assert asked <= names, f"{path.stem}: {title}: {asked - names}"
