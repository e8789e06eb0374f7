"""What JSON Schema has no words for, so that bodies which break it are not made up: names that are unique within a list, and
whole numbers that are written without a fraction (to JSON Schema 1.0 is an integer). And what a description cannot know:
which service a change is for."""

import schemathesis

UNIQUE = {"env_config": "env_name", "volume_config": "container_path"}
# The services of the run are attached ones, and without a line for requests. What their type has not, and what cannot be
# changed, is left out of changes that are to be accepted; changes that are to be refused have it.
NOT_FOR_ATTACHED = {
    "service_slug", "service_type", "docker_image", "registry_auth_secret_id", "command", "args", "cpu_limit",
    "memory_limit_bytes", "env_config", "volume_config", "gpu_count", "exposed_port", "external_url",
    "external_auth_credential_id",
}


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
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.body, dict):
        return case
    body = {field: value for field, value in case.body.items() if field not in NOT_FOR_ATTACHED}
    # What is null returns to its default, which for its target is none, and for a line needs a limit of requests.
    if body.get("attached_target", "") is None:
        del body["attached_target"]
    if body.get("max_concurrent_requests") is None:
        body.pop("max_queued_requests", None)
        body.pop("max_concurrent_requests", None)
    case.body = body
    return case
