"""Read a file that a person edits: TOML into one frozen pydantic model, or one clear message.

Every key is known and typed; an unknown key is an error that names the nearest known one. What the values mean is
left to the model.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedhealth.errors import ConfigInvalid

Model = TypeVar("Model", bound=BaseModel)

MAX_CONFIG_BYTES = 256 * 1024


def read_toml(path: Path, model: type[Model], what: str) -> Model:
    """Read `path` as a `model`.

    Args:
        path: a TOML file of at most 256 KiB.
        model: the pydantic model of the whole file.
        what: what the file is, for messages, such as "study protocol".

    Raises:
        ConfigInvalid: missing, too large, not UTF-8, not TOML, or not what the model wants.
    """
    return parse_toml(read_config(path, what), path, model, what)


def read_config(path: Path, what: str) -> bytes:
    """Return the bytes of a file that a person edits.

    Raises:
        ConfigInvalid: missing, or larger than 256 KiB.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid(
            f"{what} {path} cannot be read", got=error.strerror or "an error", next_step="Check the path."
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigInvalid(f"{what} {path} is too large", wanted="at most 256 KiB")
    return raw


def parse_toml(raw: bytes, path: Path, model: type[Model], what: str) -> Model:
    """Return what the bytes of a file say; arguments and errors otherwise as in `read_toml`."""
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"{what} {path} is not TOML", got=str(error), next_step="Correct the file.") from error
    try:
        # By way of JSON, because only there strictness means what a person expects: a list may be a tuple and a text
        # a path, but "20" is no number and "yes" no truth value.
        return model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigInvalid(
            f"{what} {path} is not valid",
            got="; ".join(_explain(detail, values, model) for detail in error.errors()[:5]),
            next_step="Correct the file.",
        ) from error


def _explain(detail: Any, values: Any, model: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's own types
    place = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "extra_forbidden":
        known = sorted(_known_keys(model))
        if detail["loc"][-1] in known:
            return f"key '{place}' does not belong there"
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"unknown key '{place}'" + (f" (did you mean '{near[0]}'?)" if near else "")
    if detail["type"] == "missing":
        return f"key '{place}' is missing"
    return f"{place}: {detail['msg']}"


def _known_keys(model: type[BaseModel]) -> set[str]:
    """Return every key that occurs in the model's schema, at any depth."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {key for part in parts for key in part.get("properties", {})}
