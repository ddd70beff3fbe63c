"""Credentials are taken out of text, and nothing else is."""

from __future__ import annotations

import pytest

from syn2co_ray.storage.redaction import redacted

SECRET = "s3cr3t/with+signs=="


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "RAY_AUTH_TOKEN",
        "WANDB_API_KEY",
        "MY_PASSWORD",
    ],
)
def test_values_of_secret_variables_are_replaced_by_their_names(monkeypatch, name) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redacted(f"got '{SECRET}' twice: {SECRET}") == f"got '[{name}]' twice: [{name}]"


def test_secrets_are_found_as_they_stand_in_urls(monkeypatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SECRET)
    assert redacted("GET /blob?x=s3cr3t%2Fwith%2Bsigns%3D%3D") == "GET /blob?x=[AZURE_STORAGE_SAS_TOKEN]"


def test_each_secret_part_of_a_connection_string_is_hidden_and_the_account_is_not(monkeypatch) -> None:
    whole = f"DefaultEndpointsProtocol=https;AccountName=pictures;AccountKey={SECRET};EndpointSuffix=core"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", whole)
    assert redacted(f"signed with {SECRET}") == "signed with [AZURE_STORAGE_CONNECTION_STRING]"
    assert redacted(f"cannot read {whole}") == "cannot read [AZURE_STORAGE_CONNECTION_STRING]"
    assert redacted("account pictures") == "account pictures"


def test_signatures_of_urls_and_passwords_in_them_are_hidden() -> None:
    assert (
        redacted("https://b.s3/x?X-Amz-Signature=abc123&n=1") == "https://b.s3/x?X-Amz-Signature=[hidden]&n=1"
    )
    assert redacted("https://a.blob/x?sv=1&sig=ab%2Bc") == "https://a.blob/x?sv=1&sig=[hidden]"
    assert redacted("redis://me:hush@head:6379") == "redis://[user]@head:6379"


def test_switches_file_names_and_other_variables_stay(monkeypatch, tmp_path) -> None:
    key_file = tmp_path / "credentials.json"
    key_file.touch()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    monkeypatch.setenv("USE_TOKEN", "true")
    monkeypatch.setenv("BUCKET", "my-own-bucket")
    text = f"true: read {key_file} for my-own-bucket at step 12"
    assert redacted(text) == text
