"""Load a TOML or JSON file into a pydantic model; say everything that is wrong with it at once."""

from __future__ import annotations

import datetime
import gzip
import json
import re
import reprlib
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from .mistakes import ConfigError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]


class Section(BaseModel):
    """A table of a TOML file: unknown keys are mistakes, values never change, nan and inf are refused.

    The string under a field is its help. A choice between sections is a union discriminated by a field
    ``kind: Literal[...]``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    if_missing: ClassVar[str] = ""
    """What to do where a file lacks the table and must not."""


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("must have at least one entry")
    return values


NotEmpty = AfterValidator(_not_empty)
"""Of a tuple. A rule of its own: pydantic's ``min_length`` counts only those entries that are no mistakes."""


def load_toml(path: str | Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read ``path``, apply the overrides, and validate.

    Parameters
    ----------
    path
        A UTF-8 TOML file.
    model
        What the file must hold, usually a `Section`.
    overrides
        ``a.b=VALUE`` or ``servers[2].name=VALUE``, VALUE in TOML; quotes may be left out around
        a bare word. They pass the same validation as the file.

    Raises
    ------
    ConfigError
        With every mistake of the file and the overrides.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [f"not valid TOML: {error}"]) from None

    problems = [problem for item in overrides if (problem := _override(data, item))]
    dates = dict(_dates(data, ()))
    problems += [f"{_dotted(at)}: dates are not used here; got {value}" for at, value in dates.items()]
    try:
        # Strict JSON, not strict Python: it takes an array for a tuple, yet neither "4" nor true for 4.
        loaded = model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems += _explain(error, model, skip=dates)
    if problems:
        raise ConfigError(path, problems)
    return loaded


def load_json(path: str | Path, model: type[Model]) -> Model:
    """Read ``path``, JSON or gzipped JSON (``.gz``), and validate.

    Raises
    ------
    ConfigError
        With every mistake of the file.
    """
    try:
        data = Path(path).read_bytes()
        return model.model_validate_json(gzip.decompress(data) if str(path).endswith(".gz") else data, strict=True)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not gzipped"
        raise ConfigError(path, [f"cannot be read: {reason}"]) from None
    except ValidationError as error:
        raise ConfigError(path, list(_explain(error, model, skip={}))) from None


def _override(data: dict[str, Any], item: str) -> str | None:
    """Write one override into ``data``; return what is wrong with it, if anything is."""
    key, equals, text = (part.strip() for part in item.partition("="))
    if not equals or not re.fullmatch(r"[\w-]+(\[\d+\])*(\.[\w-]+(\[\d+\])*)*", key):
        return f"override {item!r}: must look like section.key=value"
    try:
        value = _toml_value(text)
    except tomllib.TOMLDecodeError:
        return f"override {item!r}: the right side is not a TOML value"

    *parents, leaf = (int(part) if part.isdigit() else part for part in re.findall(r"[\w-]+", key))
    table: Any = data
    for depth, part in enumerate(parents):
        if isinstance(table, dict):
            table = table.setdefault(part, {})
        elif _has_index(table, part):
            table = table[part]
        else:
            return f"override {item!r}: {_dotted(parents[: depth + 1])} does not exist"
    if not (isinstance(table, dict) or _has_index(table, leaf)):
        return f"override {item!r}: {_dotted(parents)} has no {leaf!r} to set"
    table[leaf] = value
    return None


def _has_index(table: object, part: str | int) -> bool:
    return isinstance(table, list) and isinstance(part, int) and part < len(table)


def _toml_value(text: str) -> Any:
    if re.fullmatch(r"[A-Za-z_][\w.+/-]*", text) and text not in {"true", "false", "inf", "nan"}:
        return text
    parsed = tomllib.loads(f"value = {text}")
    if len(parsed) > 1:  # a line break in the text started another key
        raise tomllib.TOMLDecodeError("more than one value")
    return parsed["value"]


def _dates(value: object, place: Place) -> Iterator[tuple[Place, object]]:
    """Yield the TOML dates and times below ``value``: JSON has none, and no setting is one."""
    if isinstance(value, datetime.date | datetime.time):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _dates(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _dates(item, (*place, index))


def _explain(error: ValidationError, model: type[BaseModel], skip: Mapping[Place, object]) -> Iterator[str]:
    for item in error.errors():
        place, annotation = _follow(model, item["loc"])
        if place not in skip:
            yield _line(place, annotation, item["type"], item["msg"], item["input"], item.get("ctx", {}))


def _belongs_into(key: str, annotation: Any, above: Place) -> str:
    """A hint if sections below know the key, as ``[scheduler]`` knows ``max_num_seqs``."""
    # An array's tables have headers without its numbers: [servers.scheduler].
    headers = [f"[{header}]" for header in _headers(key, annotation, ".".join(p for p in above if isinstance(p, str)))]
    return f"; it belongs into {' or '.join(headers)}" if headers else ""


def _headers(key: str, annotation: Any, above: str) -> Iterator[str]:
    """Headers of the sections below ``annotation``, at whatever depth, that have the key."""
    for name, field in getattr(annotation, "model_fields", {}).items():
        section, header = _bare(field.annotation), f"{above}.{name}".removeprefix(".")
        if key in getattr(section, "model_fields", ()):
            yield header
        yield from _headers(key, section, header)


def _line(place: Place, annotation: Any, kind: str, message: str, value: object, ctx: dict[str, Any]) -> str:
    """Say one mistake: place, rule, value.

    ``annotation`` is the type at the place; for an unknown key, the type of the section that holds it.
    """
    match kind:
        case "extra_forbidden":
            known = list(getattr(annotation, "model_fields", ()))
            hint = _belongs_into(str(place[-1]), annotation, place[:-1]) or did_you_mean(str(place[-1]), known)
            hint = hint or f"; known: {', '.join(sorted(known))}"
            return f"{_dotted(place)}: unknown key{hint}"
        case "missing":
            advice = getattr(_bare(annotation), "if_missing", "")
            return f"{_dotted(place)}: missing" + (f"; {advice}" if advice else "")
        case "union_tag_not_found":
            return f"{_dotted((*place, 'kind'))}: missing; choose one of {_quoted(_tags(annotation))}"
        case "union_tag_invalid":
            tags = _tags(annotation)
            hint = did_you_mean(ctx["tag"], tags)
            return f"{_dotted((*place, 'kind'))}: {ctx['tag']!r} is not one of {_quoted(tags)}{hint}"
        case "literal_error":
            options = [str(option) for option in get_args(_bare(annotation))]
            hint = did_you_mean(str(value), options)
            return f"{_dotted(place)}: {_shown(value)} is not one of {_quoted(options)}{hint}"
        case "value_error" if isinstance(value, dict):  # a rule between fields: the value says nothing
            return f"{_dotted(place)}: {ctx['error']}" if place else str(ctx["error"])
        case "value_error":
            return f"{_dotted(place)}: {ctx['error']}, got {_shown(value)}"
        case _:
            rule = message.replace("Input should be", "must be", 1).replace("should have", "must have", 1)
            return f"{_dotted(place)}: {rule}, got {_shown(value)}"


def _follow(annotation: Any, loc: Place) -> tuple[Place, Any]:
    """Walk pydantic's ``loc`` down the types.

    Returns the place as it stands in the file, without the tags that pydantic puts in for the member of a
    union, and the type there (for a key that no section knows: the section).
    """
    place: list[str | int] = []
    for part in loc:
        annotation = _bare(annotation)
        arguments = get_args(annotation)
        match get_origin(annotation):
            case None if part in getattr(annotation, "model_fields", {}):
                annotation = annotation.model_fields[part].annotation
            case origin if origin in (Union, UnionType):
                annotation = next((each for each in arguments if part in _names(each)), annotation)
                continue
            case origin if origin is dict:
                annotation = arguments[1]
            case origin if origin in (list, tuple):
                annotation = arguments[0]
        place.append(part)
    return tuple(place), annotation


def _bare(annotation: Any) -> Any:
    """Take ``Annotated[...]`` and ``| None`` off a type."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        return _bare(options[0]) if len(options) == 1 else annotation
    return annotation


def _names(member: Any) -> tuple[str, ...]:
    """Return how pydantic may call this member of a union: by its tag, or by its type's name."""
    member = _bare(member)
    kind = getattr(member, "model_fields", {}).get("kind")
    return get_args(kind.annotation) if kind else (getattr(member, "__name__", str(member)),)


def _tags(union: Any) -> list[str]:
    return [tag for member in get_args(_bare(union)) for tag in _names(member)]


def _dotted(place: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(repr(word) for word in words)


def _shown(value: object) -> str:
    """Write a value as TOML would, shortened when it is long."""
    return str(value).lower() if isinstance(value, bool) else reprlib.repr(value)
