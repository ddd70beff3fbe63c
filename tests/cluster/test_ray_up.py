"""Files of `ray up`: what Ray's own launcher says of them, EC2's own model of a request, and our rules."""

from __future__ import annotations

import copy
import inspect
import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from jsonschema.exceptions import ValidationError

from .house_rules import CHECKPOINT_S
from .manifests import CLUSTER

FILES = sorted((CLUSTER / "ray_up").glob("*.yaml"))
SPOT_TYPES = {"augment", "train-spot", "generate"}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

Config = dict[str, Any]


def _loaded(path: Any) -> Config:
    return yaml.safe_load(path.read_text())


def _prepared(config: Config) -> Config:
    """As `ray up` prepares it, and then checks it against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_both_clouds_are_there():
    assert [path.stem for path in FILES] == ["aws", "gcp"]


@each_file
def test_ray_takes_the_file_and_changes_no_limit(path):
    config = _loaded(path)
    prepared = _prepared(config)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    for name, node_type in config["available_node_types"].items():
        assert 0 <= node_type["min_workers"] <= node_type["max_workers"] <= config["max_workers"]
        assert prepared["available_node_types"][name]["max_workers"] == node_type["max_workers"]


BREAKS: dict[str, tuple[Callable[[Config], Any], type[Exception], str]] = {
    "misspelt key": (lambda c: c.update(max_worker=3), ValidationError, "max_worker"),
    "misspelt key of a type": (lambda c: _train(c).update(min_workrs=1), ValidationError, "min_workrs"),
    "text for a number": (lambda c: _train(c).update(max_workers="4"), ValidationError, "'4' is not of type"),
    "half a GPU": (lambda c: _train(c)["resources"].update(GPU=0.5), ValidationError, "0.5 is not of type"),
    "no cloud": (lambda c: c["provider"].pop("type"), KeyError, "type"),
    "no head": (lambda c: c.update(head_node_type="boss"), ValueError, "head_node_type"),
    "a number as a command": (lambda c: c["setup_commands"].append(1), ValidationError, "1 is not of type"),
}


def _train(config: Config) -> Config:
    return config["available_node_types"]["train"]


@each_file
@pytest.mark.parametrize("name", BREAKS)
def test_broken_file_is_refused(path, name):
    change, error, words = BREAKS[name]
    config = _loaded(path)
    change(config)
    with pytest.raises(error, match=re.escape(words)):
        _prepared(config)


@each_file
def test_spot_types_are_spot_and_the_others_are_not(path):
    spot = {
        name
        for name, node_type in _loaded(path)["available_node_types"].items()
        if node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or any(s.get("provisioningModel") == "SPOT" for s in node_type["node_config"].get("scheduling", ()))
    }
    assert spot == SPOT_TYPES


@each_file
def test_every_start_asks_for_the_token_and_the_dashboard_stays_on_loopback(path):
    config = _loaded(path)
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "/home/ubuntu/.ray/auth_token" in config["file_mounts"]
    assert not re.search(r"RAY_AUTH_TOKEN=|AKIA|BEGIN [A-Z ]*PRIVATE KEY", path.read_text())


@each_file
def test_a_machine_that_is_taken_away_and_a_job_that_is_stopped_have_time_for_a_checkpoint(path):
    config = _loaded(path)
    watched = [
        command for command in config["worker_start_ray_commands"] if "watch_for_preemption" in command
    ]
    assert [f"watch_for_preemption.py {path.stem} $RAY_HEAD_IP:6379" in command for command in watched] == [
        True
    ]
    head = "".join(config["head_start_ray_commands"])
    (waits_s,) = re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", head)
    assert float(waits_s) >= CHECKPOINT_S


@each_file
def test_every_command_is_bash_and_names_files_that_are_there(path):
    config = _loaded(path)
    commands = [c for key in config if key.endswith("_commands") for c in config[key]]
    assert len(commands) >= 10
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True, timeout=20)
        for name in re.findall(r"~/syn2co/([\w./-]+)", command):
            assert (CLUSTER.parent / name).exists(), name


@each_file
def test_header_says_how_to_bring_up_submit_and_take_down(path):
    header = path.read_text().partition("cluster_name")[0]
    positions = [header.find(f"# {word}:") for word in ("up", "submit", "down")]
    assert -1 < positions[0] < positions[1] < positions[2]
    for name in set(re.findall(r"cluster/[\w./-]+\.\w+", header)):
        assert (CLUSTER.parent / name).exists(), name


def _ec2_faults(node_config: Config) -> str:
    """What EC2's model of RunInstances, as boto3 checks it before it asks, refuses; empty when nothing."""
    session = pytest.importorskip("botocore.session", reason="needs botocore")
    validate = pytest.importorskip("botocore.validate")
    shape = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    request = node_config | {"MinCount": 1, "MaxCount": 1}
    return validate.ParamValidator().validate(request, shape).generate_report()


def test_ec2_knows_every_key_of_every_machine():
    types = _loaded(CLUSTER / "ray_up" / "aws.yaml")["available_node_types"]
    assert {
        name: _ec2_faults(node_type["node_config"]) for name, node_type in types.items()
    } == dict.fromkeys(types, "")
    assert "MarketTyp" in _ec2_faults(
        types["train"]["node_config"] | {"InstanceMarketOptions": {"MarketTyp": "spot"}}
    )


def test_no_machine_has_rays_default_role_or_an_open_door():
    config = _loaded(CLUSTER / "ray_up" / "aws.yaml")
    for name, node_type in config["available_node_types"].items():
        machine = node_type["node_config"]
        assert machine["IamInstanceProfile"] == {"Name": "syn2co-head" if name == "head" else "syn2co-worker"}
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert all(device["Ebs"]["Encrypted"] for device in machine["BlockDeviceMappings"])
    doors = config["provider"]["security_group"]["IpPermissions"]
    assert [(door["FromPort"], door["ToPort"]) for door in doors] == [(22, 22)]
    assert not any(network["CidrIp"].startswith("0.0.0.0") for door in doors for network in door["IpRanges"])


def test_heads_policy_holds_what_rays_launcher_asks_of_ec2_and_no_more():
    from ray.autoscaler._private.aws import node_provider

    source = inspect.getsource(node_provider)
    calls = set(
        re.findall(
            r"\.(create_instances|create_tags|(?:terminate|stop|start)_instances|describe_\w+)\b", source
        )
    )
    if ".instances.filter(" in source:
        calls.add("describe_instances")
    # Stopped machines are not kept (cache_stopped_nodes: false): none is stopped or started again.
    calls -= {"stop_instances", "start_instances"}
    actions = {"create_instances": "RunInstances"}
    asked = {"ec2:" + actions.get(call, call.title().replace("_", "")) for call in calls}
    policy = json.loads((CLUSTER / "policies" / "ec2_head.json").read_text())["Statement"]
    allowed = {a for s in policy for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])}
    assert allowed == asked | {"iam:PassRole"}


def test_heads_policy_lets_it_start_the_types_of_the_file_and_end_its_own():
    config = _loaded(CLUSTER / "ray_up" / "aws.yaml")
    policy = {
        s["Sid"]: s for s in json.loads((CLUSTER / "policies" / "ec2_head.json").read_text())["Statement"]
    }
    workers = {
        t["node_config"]["InstanceType"] for n, t in config["available_node_types"].items() if n != "head"
    }
    (allowed,) = policy["StartWorkers"]["Condition"]["StringEqualsIfExists"].values()
    assert set(allowed) == workers
    for sid in ("EndOwnWorkers", "NameThemAtBirthAndLater"):
        ((condition),) = policy[sid]["Condition"].values()
        assert condition == {"aws:ResourceTag/ray-cluster-name": config["cluster_name"]}
