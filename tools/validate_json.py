#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""validate_json.py SCHEMA FILE...: checks JSON files against a JSON schema.

The keywords that bench/report.schema.json uses, and no others: one that is not known here is an
error, so that a schema never says more than is checked. Standard library only.
"""
import json
import re
import sys

KNOWN = {"$schema", "$defs", "$ref", "title", "type", "required", "properties", "items", "enum", "const",
         "anyOf", "pattern", "minLength", "minimum", "exclusiveMinimum", "minItems", "maxProperties"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def is_type(value, name):
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def check(value, schema, root, where):
    """Yields a line for each thing that is wrong."""
    for key in schema.keys() - KNOWN:
        raise SystemExit(f"schema: the keyword {key} is not known to this validator")
    if "$ref" in schema:
        yield from check(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        found = [list(check(value, one, root, where)) for one in schema["anyOf"]]
        if all(found):
            yield f"{where}: fits none of {len(found)} forms; the nearest: {min(found, key=len)[0]}"
    if "type" in schema and not is_type(value, schema["type"]):
        yield f"{where}: found {json.dumps(value)[:60]}, expected {schema['type']}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: found {json.dumps(value)[:60]}, expected {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: found {json.dumps(value)[:60]}, expected one of {schema['enum']}"
    if is_type(value, "number"):
        if "minimum" in schema and value < schema["minimum"]:
            yield f"{where}: {value} is below {schema['minimum']}"
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            yield f"{where}: {value} is not above {schema['exclusiveMinimum']}"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield f"{where}: an empty text"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{where}: {value!r} does not match {schema['pattern']}"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{where}: {len(value)} items, expected at least {schema['minItems']}"
        for i, item in enumerate(value):
            yield from check(item, schema.get("items", {}), root, f"{where}[{i}]")
    if isinstance(value, dict):
        for key in schema.get("required", []):
            if key not in value:
                yield f"{where}: no \"{key}\""
        if len(value) > schema.get("maxProperties", len(value)):
            yield f"{where}: {len(value)} members, expected at most {schema['maxProperties']}"
        for key, one in schema.get("properties", {}).items():
            if key in value:
                yield from check(value[key], one, root, f"{where}.{key}")


def main():
    if len(sys.argv) < 3:
        raise SystemExit("usage: validate_json.py SCHEMA FILE...")
    with open(sys.argv[1], encoding="utf-8") as f:
        schema = json.load(f)
    wrong = 0
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as f:
            document = json.load(f)
        for line in check(document, schema, schema, "$"):
            print(f"{path}: {line}")
            wrong += 1
    raise SystemExit(1 if wrong else 0)


main()
