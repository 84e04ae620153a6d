"""The page at /docs: the routes and what they take, from the OpenAPI description. It loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'


def docs_page(spec: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    parts = [_HEAD, f"<title>{escape(spec['info']['title'])}</title><h1>{escape(spec['info']['title'])}</h1>"]
    parts.append('<p><a href="/openapi.json">OpenAPI</a>, for programs.</p>')
    for path, methods in spec["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(route.get('description', ''))}</p>")
            parts += _body(spec, route)
    return "".join(parts)


def _body(spec: Mapping[str, Any], route: Mapping[str, Any]) -> Iterator[str]:
    content = route.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    schema = spec.get("components", {}).get("schemas", {}).get(reference.rpartition("/")[2], {})
    if not schema:
        return
    yield "<table><tr><th>field<th>type<th>default<th>"
    for name, one in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else one.get("default", "")
        cells = (name, _kind(one), default, one.get("description", ""))
        yield "<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in cells)
    yield "</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    reference = schema.get("$ref", "").rpartition("/")[2]
    return " or ".join(map(str, values)) or reference or str(schema.get("type", "any"))
