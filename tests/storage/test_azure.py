"""az:// against Azurite: who asks, whole or absent, what is said when it cannot be."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import azure, list_files, open_store, publish, publish_bytes, read_bytes, with_retries
from syn2co_ray.storage.retry import is_transient, translate

from .stalling_proxy import StallingProxy

OPTIONS = ObjectStoreSpec()
ANONYMOUS = ObjectStoreSpec(anonymous=True)


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing about Azure."""
    for name in azure.CREDENTIAL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "account", "path_style"),
    [
        (
            {"AZURE_STORAGE_ACCOUNT_NAME": "mine", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
            azure.Account("mine", "https://mine.blob.core.windows.net", key="a2V5"),
            False,
        ),
        (
            {"AZURE_STORAGE_ACCOUNT": "mine", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=x"},
            azure.Account("mine", "https://mine.blob.core.windows.net", sas_token="sv=1&sig=x"),
            False,
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k==;EndpointSuffix=core.cn",
                "AZURE_STORAGE_ACCOUNT_NAME": "other",
            },
            azure.Account("a", "https://a.blob.core.cn", key="k=="),
            False,
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;BlobEndpoint=http://127.0.0.1:1/a/;"},
            azure.Account("a", "http://127.0.0.1:1/a"),
            True,
        ),
    ],
)
def test_account_comes_from_the_environment(no_account, environment, account, path_style: bool) -> None:
    for name, value in environment.items():
        no_account.setenv(name, value)
    assert azure.account_from_environment() == account
    assert account.path_style == path_style
    assert "k==" not in repr(account)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no storage account named in the environment"),
        ("BlobEndpoint=http://x/y", "no AccountName in it"),
    ],
)
def test_missing_account_is_named(no_account, text: str | None, words: str) -> None:
    if text:
        no_account.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with pytest.raises(StorageError, match=words) as caught:
        list_files(open_store("az://container/prefix", OPTIONS))
    assert "AZURE_STORAGE_ACCOUNT_NAME" in caught.value.fault.allowed


def test_writing_without_the_extra_names_the_command(no_account) -> None:
    no_account.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    no_account.setitem(sys.modules, "azure.storage.blob", None)
    azure._service.cache_clear()
    with pytest.raises(StorageError, match="pip install 'syn2co_ray") as caught:
        publish_bytes(open_store("az://container", OPTIONS), "a", b"1")
    assert "not installed" in caught.value.fault.got


def test_errors_of_azures_client_read_like_those_of_arrows() -> None:
    exceptions = pytest.importorskip("azure.core.exceptions", reason="needs the extra `azure`")
    refused = exceptions.ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token")
    assert "credentials were refused" in str(translate(azure._as_os_error(refused), "write az://c/a"))
    assert is_transient(azure._as_os_error(exceptions.ServiceRequestError("connection refused")))


@pytest.mark.azure
def test_missing_container_is_named(azure_environment) -> None:
    store = open_store("az://nobody-made-this/prefix", OPTIONS)
    for action in (
        lambda: list_files(store),
        lambda: list_files(store, missing_ok=True),
        lambda: publish_bytes(store, "a", b"1"),
    ):
        with pytest.raises(StorageError, match="there is no (such )?bucket"):
            action()


@pytest.mark.azure
def test_wrong_key_is_named(azure_environment, monkeypatch) -> None:
    store = open_store(azure_environment.make_container("private"), OPTIONS)
    publish_bytes(store, "a", b"1")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", azure_environment.connection_string("A" * 86 + "==")
    )
    for action in (
        lambda: list_files(store),
        lambda: read_bytes(store, "a"),
        lambda: publish_bytes(store, "b", b"2"),
    ):
        with pytest.raises(
            StorageError, match=r"credentials were refused \(AuthorizationFailure\)"
        ) as caught:
            action()
        assert "AZURE_STORAGE_ACCOUNT_KEY" in caught.value.fault.next_step


@pytest.mark.azure
def test_anonymous_reads_public_containers_only(azure_environment, monkeypatch) -> None:
    public = azure_environment.make_container("public", public=True)
    private = azure_environment.make_container("private")
    for uri in (public, private):
        publish_bytes(open_store(uri, OPTIONS), "folder/a", b"seen")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", azure_environment.connection_string("A" * 86 + "==")
    )
    store = open_store(public, ANONYMOUS)
    assert [file.path for file in list_files(store)] == ["folder/a"]
    assert read_bytes(store, "folder/a") == b"seen"
    with pytest.raises(StorageError, match="credentials were refused"):
        list_files(open_store(private, ANONYMOUS))


@pytest.mark.azure
def test_uploader_killed_in_the_middle_keeps_the_old_blob(azure_environment) -> None:
    direct = open_store(azure_environment.make_container("killed"), OPTIONS)
    publish_bytes(direct, "blob", b"old")
    forwarded = azure.BLOCK_BYTES * 3 // 2
    proxy = StallingProxy(f"http://{azure_environment.authority}", forwarded, then="hold")
    code = (
        "import sys; from syn2co_ray.storage import open_store, publish_bytes\n"
        "from syn2co_ray.spec.source import ObjectStoreSpec\n"
        "store = open_store('az://killed', ObjectStoreSpec())\n"
        "for name in ('blob', 'other'): publish_bytes(store, name, bytes(50 * 2**20))\n"
    )
    text = azure_environment.connection_string()
    text = text.replace(f"http://{azure_environment.authority}", proxy.endpoint_url)
    environment = os.environ | {"AZURE_STORAGE_CONNECTION_STRING": text}
    writer = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        assert proxy.stalled.wait(timeout=60)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait(timeout=30)
        proxy.close()
    assert read_bytes(direct, "blob") == b"old"
    assert [file.path for file in list_files(direct)] == ["blob"]


@pytest.mark.azure
def test_two_writers_of_one_name_never_mix(azure_environment, monkeypatch) -> None:
    store = open_store(azure_environment.make_container("shared"), OPTIONS)
    monkeypatch.setattr(azure, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(publish, "with_retries", functools.partial(with_retries, base_delay_s=0.001))
    first, second = os.urandom(4500), os.urandom(5500)
    names, blocks = azure.secrets.token_hex, 0

    def interrupt(count: int) -> str:
        nonlocal blocks
        blocks += 1
        if blocks == 4:
            publish_bytes(store, "blob", second)
            assert read_bytes(store, "blob") == second
        return names(count)

    monkeypatch.setattr(azure.secrets, "token_hex", interrupt)
    publish_bytes(store, "blob", first)
    assert read_bytes(store, "blob") == first
