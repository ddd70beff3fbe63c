"""Dashboard and alert rules: they use metrics that exist, and Prometheus' own tool accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from syn2co_ray.run_metrics import METRICS

HERE = Path(__file__).parent
WATCH = HERE.parents[1] / "cluster" / "watch"
RULES, DASHBOARD = WATCH / "prometheus_rules.yaml", WATCH / "grafana_dashboard.json"
ROWS = ["Training", "Data", "Generation", "Health"]
UNITS = {"none", "s", "percentunit", "sci"}
IN_A_PANEL = {"$run": ".+", "$__rate_interval": "1m", "$__range": "1h"}
"""Grafana's variables, and a value of each."""


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """The query of every panel, by the panel's title, with values for Grafana's variables."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in IN_A_PANEL.items():
                text = text.replace(variable, value)
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = text
    return found


def alerts() -> list[dict[str, Any]]:
    return yaml.safe_load(RULES.read_text())["groups"][0]["rules"]


def metrics_in(texts: list[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"\bray_(syn2co_[a-z0-9_]+)", text)}


def test_dashboard_and_alerts_use_metrics_of_the_table_and_the_dashboard_shows_them_all() -> None:
    known = {metric.name for metric in METRICS}
    assert metrics_in([alert["expr"] for alert in alerts()]) <= known
    # Left out of the dashboard: the step's number, which `epoch` and time left say better.
    assert metrics_in(list(queries().values())) == known - {"syn2co_step"}


def test_labels_in_queries_are_labels_of_their_metrics() -> None:
    labels = {f"ray_{metric.name}": {"run", "framework", *metric.labels} for metric in METRICS}
    asked = re.compile(r"(ray_syn2co_\w+)\{([^}]*)\}")
    found = [match for text in queries().values() for match in asked.findall(text)]
    assert len(found) >= len(METRICS) - 1
    for name, matchers in found:
        assert set(re.findall(r"(\w+)[!=]?[=~]", matchers)) <= labels[name], name


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 36
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ROWS
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "run"]
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all("$run" in target["expr"] for target in panel["targets"]), panel["title"]


def test_no_panel_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_alert_says_how_bad_it_is_which_run_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert "for" in alert
        assert "{{ $labels.run }}" in alert["annotations"]["summary"]
        assert len(alert["annotations"]["description"]) > 80


def test_keys_that_alerts_name_are_keys_of_a_job() -> None:
    from syn2co_ray.spec.identity import json_schema

    schema = json.dumps(json_schema())
    texts = " ".join(alert["annotations"]["description"] for alert in alerts())
    keys = set(re.findall(r"\b(?:train|augment|gate|object_store)\.[a-z_.]*[a-z]", texts))
    assert {"train.collective_timeout_s", "augment.actors.max", "gate.tries_max"} <= keys
    for key in keys:
        assert all(f'"{part}"' in schema for part in key.split(".")), key


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", RULES)


def test_alerts_fire_for_runs_that_deserve_it_and_for_no_others() -> None:
    promtool("test", "rules", HERE / "rules_test.yaml")


def test_every_alert_has_a_run_that_it_fires_for() -> None:
    tests = yaml.safe_load((HERE / "rules_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {alert["alert"] for alert in alerts()}


def test_promtool_parses_the_query_of_every_panel(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(queries().values())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_pod_monitor_is_one_document_of_its_kind() -> None:
    monitor = yaml.safe_load((WATCH / "pod_monitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
