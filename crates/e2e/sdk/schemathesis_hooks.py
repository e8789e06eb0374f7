"""What JSON Schema has no words for, so that bodies which break it are not made up: names that are unique within a list, and
whole numbers that are written without a fraction (to JSON Schema 1.0 is an integer). And what a description cannot know:
which service a change is for."""

import json
from pathlib import Path

import jsonschema_rs
import schemathesis

UNIQUE = {"env_config": "env_name", "volume_config": "container_path"}
# A service of each type, by the type's name.
OF_TYPE = json.loads(Path("services-of-types.json").read_text())


def is_plain(value):
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    return not (isinstance(value, float) and value.is_integer())


@schemathesis.hook
def filter_body(context, body):
    if not is_plain(body):
        return False
    if not isinstance(body, dict):
        return True
    for field, name in UNIQUE.items():
        entries = body.get(field)
        if not isinstance(entries, list):
            continue
        names = [str(entry.get(name)).rstrip("/") for entry in entries if isinstance(entry, dict)]
        if len(names) != len(set(names)):
            return False
    return True


@schemathesis.hook.apply_to(name="PUT /api/v1/containers/{id}")
def map_case(context, case):
    """Sends a change that is to be accepted to a service of a type that it fits."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.body, dict):
        return case
    types = context.operation.schema.raw_schema["components"]["schemas"]["ServiceChanges"]["allOf"][0]["anyOf"]
    fitting = next(kind["title"] for kind in types if jsonschema_rs.is_valid(kind, case.body))
    case.path_parameters = {"id": OF_TYPE[fitting]}
    body = {field: value for field, value in case.body.items() if field != "service_slug"}
    # The services have a limit of requests, and keep it for changes that give the line before it a length.
    if body.get("max_queued_requests") is None and body.get("max_concurrent_requests", 1) is None:
        del body["max_concurrent_requests"]
    case.body = body
    return case
