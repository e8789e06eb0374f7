"""What JSON Schema has no words for, so that bodies which break it are not made up: names that are unique within a list, and
whole numbers that are written without a fraction (to JSON Schema 1.0 is an integer)."""

import schemathesis

UNIQUE = {"env_config": "env_name", "volume_config": "container_path"}


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
