"""Bucket policies: what the storage code asks a store for, no more and no less, shown on a store that enforces them."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import (
    delete,
    delete_folder,
    exists,
    list_files,
    open_store,
    publish_bytes,
    read_bytes,
    retry,
)

from ..object_store import ObjectStore
from .manifests import CLUSTER, rendered

POLICY = json.loads((CLUSTER / "policies" / "s3.json").read_text())
ALLOWED = {
    "FindImagesAndRuns": {"s3:ListBucket"},
    "ReadImages": {"s3:GetObject"},
    "ReadAndWriteRuns": {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"},
}
OPTIONS = ObjectStoreSpec()
BIG = bytes(6 << 20)
"""More than one part of an upload."""


def _actions(statement: dict[str, Any]) -> set[str]:
    return {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])


def test_policy_allows_what_it_says_and_nothing_by_a_star():
    assert {s["Sid"]: _actions(s) for s in POLICY["Statement"]} == ALLOWED
    for statement in POLICY["Statement"]:
        assert statement["Effect"] == "Allow"
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            bucket = resource.removeprefix("arn:aws:s3:::").partition("/")[0]
            assert bucket in ("my-images", "my-runs")


@contextmanager
def governed(store: ObjectStore, statements: list[dict[str, Any]]) -> Iterator[tuple[str, str, ObjectStore]]:
    """Buckets of images and runs, and a user who may do in them what the statements say."""
    boto3 = pytest.importorskip("boto3", reason="needs boto3 (the extra `test`)")
    owner = boto3.client(
        "s3",
        endpoint_url=store.endpoint_url,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        region_name="us-east-1",
    )
    tag = uuid.uuid4().hex[:8]
    buckets = {"my-images": f"images-{tag}", "my-runs": f"runs-{tag}"}
    with store.user(f"runner{tag}") as user:
        for name, bucket in buckets.items():
            store.make_bucket(bucket)
            own = [_for_bucket(statement, name, bucket, f"runner{tag}") for statement in statements]
            policy = {
                "Version": POLICY["Version"],
                "Statement": [statement for statement in own if statement],
            }
            if policy["Statement"]:
                owner.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        owner.put_object(Bucket=buckets["my-images"], Key="train/a.jpg", Body=b"image")
        # Who wrote an object may read it here whatever the policy says: this one is somebody else's.
        owner.put_object(Bucket=buckets["my-runs"], Key="runs/earlier/spec.yaml", Body=b"kind: pretrain")
        yield buckets["my-images"], buckets["my-runs"], user


def _for_bucket(statement: dict[str, Any], name: str, bucket: str, user: str) -> dict[str, Any] | None:
    """A statement of a role's policy as one of a bucket's, which also says who."""
    resources = statement["Resource"]
    named = [r for r in ([resources] if isinstance(resources, str) else resources) if name in r]
    if not named:
        return None
    own = copy.deepcopy(statement)
    own["Resource"] = [resource.replace(name, bucket) for resource in named]
    if "s3:DeleteObject" in _actions(statement):
        # This gateway (Ceph 16) asks about the bucket when many objects are deleted at once; S3 about each object.
        own["Resource"].append(f"arn:aws:s3:::{bucket}")
    own["Principal"] = {"AWS": [f"arn:aws:iam:::user/{user}"]}
    return own


def _use_everything(images: str, runs: str) -> None:
    """What runs do with stores: every function of `storage`, on objects that are there and that are not."""
    source = open_store(f"s3://{images}/train", OPTIONS)
    assert [file.path for file in list_files(source)] == ["a.jpg"]
    assert read_bytes(source, "a.jpg") == b"image"
    assert read_bytes(open_store(f"s3://{runs}/runs/earlier", OPTIONS), "spec.yaml") == b"kind: pretrain"
    run = open_store(f"s3://{runs}/runs/digits", OPTIONS)
    assert list_files(run, missing_ok=True) == []
    assert not exists(run, "spec.yaml")
    publish_bytes(run, "spec.yaml", b"kind: pretrain")
    publish_bytes(run, "spec.yaml", b"kind: generate")
    publish_bytes(run, "checkpoints/1/model", BIG)
    assert exists(run, "spec.yaml")
    assert read_bytes(run, "checkpoints/1/model") == BIG
    delete(run, "spec.yaml")
    delete(run, "spec.yaml")
    delete_folder(run.child("checkpoints"))
    assert list_files(run, missing_ok=True) == []


def act_as(monkeypatch: pytest.MonkeyPatch, user: ObjectStore) -> None:
    """The credentials of this process are those of a user."""
    for name, value in user.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "CREDENTIALS_PATIENCE_S", 0.0)  # what is refused here stays refused


@pytest.mark.object_store
def test_policy_is_enough_for_everything_that_runs_do(object_store, monkeypatch):
    with governed(object_store, POLICY["Statement"]) as (images, runs, user):
        act_as(monkeypatch, user)
        _use_everything(images, runs)


@pytest.mark.object_store
@pytest.mark.parametrize(
    ("sid", "action"), sorted((sid, action) for sid in ALLOWED for action in ALLOWED[sid])
)
def test_policy_allows_nothing_that_runs_do_without(object_store, monkeypatch, sid, action):
    statements = copy.deepcopy(POLICY["Statement"])
    (statement,) = [statement for statement in statements if statement["Sid"] == sid]
    statement["Action"] = sorted(_actions(statement) - {action})
    statements = [statement for statement in statements if statement["Action"]]
    with governed(object_store, statements) as (images, runs, user):
        act_as(monkeypatch, user)
        with pytest.raises((StorageError, AssertionError)):
            _use_everything(images, runs)


@pytest.mark.object_store
def test_images_cannot_be_changed(object_store, monkeypatch):
    with governed(object_store, POLICY["Statement"]) as (images, _, user):
        act_as(monkeypatch, user)
        source = open_store(f"s3://{images}/train", OPTIONS)
        with pytest.raises(StorageError, match="policy"):
            publish_bytes(source, "b.jpg", b"forged")
        with pytest.raises(StorageError, match="policy"):
            delete(source, "a.jpg")
        assert read_bytes(source, "a.jpg") == b"image"


def test_google_roles_hold_what_each_operation_needs_and_no_more():
    """By Google's table of permissions; no store here enforces them."""
    policy = yaml.safe_load((CLUSTER / "policies" / "gcs.yaml").read_text())
    needed = {"list": "storage.objects.list", "get": "storage.objects.get", "head": "storage.objects.get"}
    # An object that is there is replaced by leave to create and to delete.
    writing = {
        "put": "storage.objects.create",
        "replace": "storage.objects.delete",
        "delete": "storage.objects.delete",
    }
    assert set(policy["roles"]["syn2coReader"]) == set(needed.values())
    assert set(policy["roles"]["syn2coWriter"]) == set((needed | writing).values())


def test_google_bindings_name_the_service_accounts_of_the_manifests():
    policy = yaml.safe_load((CLUSTER / "policies" / "gcs.yaml").read_text())
    accounts = {d["metadata"]["name"] for d in rendered("overlays/gke") if d["kind"] == "ServiceAccount"}
    for binding in policy["bindings"]:
        assert {member.rpartition("/ns/syn2co/sa/")[2] for member in binding["members"]} == accounts
        assert binding["role"].rpartition("/")[2] in policy["roles"]
    written = [binding for binding in policy["bindings"] if binding["role"].endswith("Writer")]
    assert all("/objects/runs/" in binding["condition"]["expression"] for binding in written)
