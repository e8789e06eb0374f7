"""Talks to a service through Towline with the official openai package. Only the base URL and the key are ours."""

import json
import sys

import openai

client = openai.OpenAI(max_retries=0)  # OPENAI_BASE_URL, OPENAI_API_KEY
messages = [{"role": "user", "content": "one two three"}]

seen = {"version": openai.__version__}
seen["models"] = [model.id for model in client.models.list()]
chat = client.chat.completions.create(model="towline-demo", messages=messages)
seen["chat"] = chat.choices[0].message.content
seen["usage"] = chat.usage.total_tokens
stream = client.chat.completions.create(
    model="towline-demo", messages=messages, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
seen["chunks"] = len(chunks)
seen["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
seen["streamed_usage"] = chunks[-1].usage.total_tokens

try:
    client.models.retrieve("no-such-model")
except openai.NotFoundError as error:
    seen["error_of_the_service"] = {"text": str(error), "code": error.code}

for name, base_url, key in json.loads(sys.argv[1]):
    try:
        openai.OpenAI(base_url=base_url, api_key=key, max_retries=0).models.list()
    except openai.APIStatusError as error:
        seen[name] = {
            "class": type(error).__name__,
            "text": str(error),
            "code": error.code,
            "type": error.type,
            "request_id": error.request_id,
        }

print(json.dumps(seen))
