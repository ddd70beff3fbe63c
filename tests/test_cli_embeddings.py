"""The commands that ask embeddings, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from syn2co_ray.cli import app


@pytest.mark.parametrize("command", ["neighbours", "duplicates"])
def test_help_says_what_is_compared_and_gives_an_example(command: str) -> None:
    words = " ".join(CliRunner().invoke(app, [command, "--help"]).output.split())
    assert "Cosine similarity" in words
    assert f"Example: syn2co {command} s3://" in words
    assert "Exit codes" in words


@pytest.mark.parametrize(
    ("words", "exit_code", "says"),
    [
        (["neighbours", "{folder}", "--key", "a"], 3, "no embeddings/manifest.json"),
        (["neighbours", "{folder}"], 2, "--key, --image: neither; allowed: one of them"),
        (["neighbours", "{folder}", "--key", "a", "--into", "{folder}/no/x.html"], 2, "there is no folder"),
        (["duplicates", "{folder}", "--into", "{folder}"], 2, "is a folder; allowed: a file"),
        (["duplicates", "{folder}"], 3, "the folder of a finished job of kind embed"),
        (["duplicates", "{folder}", "--similarity-min", "2"], 2, "--similarity-min: 2; allowed: 0 to 1"),
    ],
)
def test_what_cannot_be_answered_is_one_message(
    tmp_path: Path, words: list[str], exit_code: int, says: str
) -> None:
    pytest.importorskip("faiss", reason="needs the extra `embed`")
    found = CliRunner().invoke(app, [word.format(folder=tmp_path) for word in words])
    assert found.exit_code == exit_code
    assert says in found.stderr
    assert "Traceback" not in found.output
