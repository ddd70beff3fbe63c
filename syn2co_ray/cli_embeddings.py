"""Commands that ask the embeddings of a job what is alike."""

from __future__ import annotations

from typing import Annotated

import typer

from .cli_results import Endpoint, Region
from .cli_shared import EXIT_CODES, Debug, guarded

Embeddings = Annotated[
    str, typer.Argument(metavar="EMBEDDINGS", help="Folder of a finished job of kind embed; any URI.")
]


def neighbours(
    embeddings: Embeddings,
    key: Annotated[str, typer.Option("--key", help="Key of an image of the set.")] = "",
    image: Annotated[str, typer.Option("--image", metavar="FILE", help="An image file instead.")] = "",
    k: Annotated[int, typer.Option("-k", "--nearest", min=1, help="How many.")] = 10,
    into: Annotated[str, typer.Option("--into", help="File for the contact sheet.")] = "neighbours.html",
    endpoint_url: Endpoint = None,
    region: Region = None,
    debug: Debug = False,
) -> None:
    """The images nearest to one of the set, or to any image file, with a contact sheet.

    Cosine similarity, exact. An image file is embedded by the job's own weights. Needs the extra `embed`.

    Example: syn2co neighbours s3://bucket/embeddings/in100-1234abcd --image cat.jpg -k 20
    """

    def work() -> None:
        from .spec.source import ObjectStoreSpec
        from .submit.similar import neighbour_lines

        options = ObjectStoreSpec(endpoint_url=endpoint_url, region=region)
        for line in neighbour_lines(embeddings, key, image, k, into, options):
            print(line)

    guarded(work, debug)


def duplicates(
    embeddings: Embeddings,
    similarity_min: Annotated[
        float, typer.Option("--similarity-min", help="Least cosine similarity of a pair.")
    ] = 0.98,
    pairs_max: Annotated[int, typer.Option("--pairs-max", min=1, help="The search ends there.")] = 1_000_000,
    shown: Annotated[int, typer.Option("--shown", min=0, help="Pairs on the contact sheet.")] = 48,
    into: Annotated[str, typer.Option("--into", help="File for the contact sheet.")] = "duplicates.html",
    endpoint_url: Endpoint = None,
    region: Region = None,
    debug: Debug = False,
) -> None:
    """Pairs of images that are nearly the same, with a contact sheet.

    Cosine similarity of all with all, exact: the time grows with the square. Needs the extra `embed`.

    Example: syn2co duplicates s3://bucket/embeddings/in100-1234abcd --similarity-min 0.97
    """

    def work() -> None:
        from .spec.source import ObjectStoreSpec
        from .submit.similar import duplicate_lines

        options = ObjectStoreSpec(endpoint_url=endpoint_url, region=region)
        for line in duplicate_lines(embeddings, similarity_min, pairs_max, shown, into, options):
            print(line)

    guarded(work, debug)


def add_commands(app: typer.Typer) -> None:
    """Give the command its words about embeddings."""
    app.command(epilog=EXIT_CODES)(neighbours)
    app.command(epilog=EXIT_CODES)(duplicates)
