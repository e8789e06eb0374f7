// Talks to a service through Towline with the official openai package. Only the base URL and the key are ours.
import OpenAI from 'openai';
import { VERSION } from 'openai/version';

const client = new OpenAI({ maxRetries: 0 }); // OPENAI_BASE_URL, OPENAI_API_KEY
const messages = [{ role: 'user', content: 'one two three' }];

const seen = { version: VERSION };
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
const chat = await client.chat.completions.create({ model: 'towline-demo', messages });
seen.chat = chat.choices[0].message.content;
seen.usage = chat.usage.total_tokens;
const stream = await client.chat.completions.create({
  model: 'towline-demo',
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
seen.chunks = 0;
seen.streamed = '';
for await (const chunk of stream) {
  seen.chunks += 1;
  seen.streamed += chunk.choices[0]?.delta?.content ?? '';
  if (chunk.usage) seen.streamed_usage = chunk.usage.total_tokens;
}

try {
  await client.models.retrieve('no-such-model');
} catch (error) {
  if (!(error instanceof OpenAI.NotFoundError)) throw error;
  seen.error_of_the_service = { text: error.message, code: error.code };
}

for (const [name, baseURL, apiKey] of JSON.parse(process.argv[2])) {
  try {
    await new OpenAI({ baseURL, apiKey, maxRetries: 0 }).models.list();
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    seen[name] = {
      class: error.constructor.name,
      text: error.message,
      code: error.code,
      type: error.type,
      request_id: error.requestID,
    };
  }
}

console.log(JSON.stringify(seen));
