"""Which Parquet columns are the image, the label and the key. Rules as in `spec/data.py`."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from ...spec.errors import DataError
from ...spec.source import SourceSpec

ROLES = ("image_column", "label_column", "key_column")
IMAGE_NAMES = ("image", "img", "jpg", "png")
LABEL_NAMES = ("label", "cls")
KEY_NAMES = ("key",)


def resolve_columns(source: SourceSpec, schema: pa.Schema, file: str) -> SourceSpec:
    """The source with its columns filled in; label and key stay None when the file has none.

    Raises:
        DataError: no column or several hold images; a named column is missing or of an unfit type.
    """
    image = source.image_column or _find_image(schema, file)
    _require(
        schema, file, "image_column", image, image_kind, "binary, or a struct with a binary field `bytes`"
    )
    label = source.label_column or _find_text(schema, LABEL_NAMES)
    if label is not None:
        _require(schema, file, "label_column", label, text_kind, "integer or string")
    key = source.key_column or _find_text(schema, KEY_NAMES)
    if key is not None:
        _require(schema, file, "key_column", key, text_kind, "string or integer")
    return source.model_copy(update={"image_column": image, "label_column": label, "key_column": key})


def image_kind(kind: pa.DataType) -> str:
    """`bytes` or `struct` for a type that can hold encoded images, else empty."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "struct" if image_kind(kind.field("bytes").type) == "bytes" else ""
    return ""


def text_kind(kind: pa.DataType) -> str:
    """`integer` or `text` for a type that can be a label or a key, else empty."""
    if pa.types.is_dictionary(kind):
        return text_kind(kind.value_type)
    if pa.types.is_integer(kind):
        return "integer"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""


def difference(first: SourceSpec, first_schema: pa.Schema, other: SourceSpec, schema: pa.Schema) -> list[str]:
    """What differs between the resolved columns of two files, in words for each; empty when nothing does.

    Widths (int32 and int64, string and large_string) do not count: the record holds text either way.
    """
    for role in ROLES:
        mine, theirs = getattr(first, role), getattr(other, role)
        kind = image_kind if role == "image_column" else text_kind
        same_kind = (
            mine is None or theirs is None or kind(_type(first_schema, mine)) == kind(_type(schema, theirs))
        )
        if mine != theirs or not same_kind:
            return [_words(role, mine, first_schema), _words(role, theirs, schema)]
    return []


def describe(source: SourceSpec, schema: pa.Schema) -> str:
    """The columns and their types in one line."""
    found = ", ".join(_words(role, getattr(source, role), schema) for role in ROLES)
    unfit = [name for name in LABEL_NAMES if source.label_column is None and name in schema.names]
    unfit += [name for name in KEY_NAMES if source.key_column is None and name in schema.names]
    return found + "".join(f"; column {name!r} ({_type(schema, name)}) is neither" for name in unfit)


def _find_image(schema: pa.Schema, file: str) -> str:
    candidates = [field.name for field in schema if image_kind(field.type)]
    if len(candidates) == 1:
        return candidates[0]
    for name in IMAGE_NAMES:
        if name in candidates:
            return name
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise DataError(
        where=file,
        got=f"several columns could be the image: {', '.join(candidates)}"
        if candidates
        else f"no image column among {columns}",
        allowed="one binary column (or struct with binary `bytes`), or one called image, img, jpg or png",
        next_step="name it with the source's `image_column`" if candidates else "check the source's `uri`",
    )


def _find_text(schema: pa.Schema, names: tuple[str, ...]) -> str | None:
    # A column that is called label but holds, say, boxes does not keep unlabelled training from its images.
    return next((name for name in names if name in schema.names and text_kind(_type(schema, name))), None)


def _require(
    schema: pa.Schema, file: str, role: str, name: str, kind: Callable[[pa.DataType], str], allowed: str
) -> None:
    if name not in schema.names:
        got = f"no column {name!r} among {', '.join(schema.names)}"
    elif not kind(_type(schema, name)):
        got = f"column {name!r} is of type {_type(schema, name)}"
    else:
        return
    raise DataError(where=file, got=got, allowed=allowed, next_step=f"correct the source's `{role}`")


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    return schema.field(name).type


def _words(role: str, name: str | None, schema: pa.Schema) -> str:
    what = role.removesuffix("_column")
    return f"no {what} column" if name is None else f"{what} column {name!r} ({_type(schema, name)})"
