"""Talks to a service through Towline with the official anthropic package, which sends its key as X-Api-Key."""

import json
import sys

import anthropic

client = anthropic.Anthropic(max_retries=0)  # ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY
question = {
    "model": "towline-demo",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "one two three"}],
}

seen = {"version": anthropic.__version__}
message = client.messages.create(**question)
seen["said"] = message.content[0].text
seen["stop_reason"] = message.stop_reason
with client.messages.stream(**question) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
seen["pieces"] = len(pieces)
seen["streamed"] = "".join(pieces)
seen["usage"] = message.usage.output_tokens
seen["streamed_usage"] = final.usage.output_tokens

try:
    client.messages.create(**{**question, "messages": []})
except anthropic.BadRequestError as error:
    seen["error_of_the_service"] = {"body": error.body}

for name, base_url, key in json.loads(sys.argv[1]):
    try:
        anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0).messages.create(**question)
    except anthropic.APIStatusError as error:
        seen[name] = {
            "class": type(error).__name__,
            "text": str(error),
            "code": error.body["error"]["code"],
            "type": error.body["error"]["type"],
            "request_id": error.response.headers["x-request-id"],
        }

print(json.dumps(seen))
