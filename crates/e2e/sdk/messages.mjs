// Talks to a service through Towline with the official @anthropic-ai/sdk package, which sends its key as X-Api-Key.
import Anthropic from '@anthropic-ai/sdk';
import { VERSION } from '@anthropic-ai/sdk/version';

const client = new Anthropic({ maxRetries: 0 }); // ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY
const question = {
  model: 'towline-demo',
  max_tokens: 100,
  messages: [{ role: 'user', content: 'one two three' }],
};

const seen = { version: VERSION };
const message = await client.messages.create(question);
seen.said = message.content[0].text;
seen.stop_reason = message.stop_reason;
const stream = client.messages.stream(question);
seen.pieces = 0;
seen.streamed = '';
stream.on('text', (piece) => {
  seen.pieces += 1;
  seen.streamed += piece;
});
const final = await stream.finalMessage();
seen.usage = message.usage.output_tokens;
seen.streamed_usage = final.usage.output_tokens;

try {
  await client.messages.create({ ...question, messages: [] });
} catch (error) {
  if (!(error instanceof Anthropic.BadRequestError)) throw error;
  seen.error_of_the_service = { body: error.error };
}

for (const [name, baseURL, apiKey] of JSON.parse(process.argv[2])) {
  try {
    await new Anthropic({ baseURL, apiKey, maxRetries: 0 }).messages.create(question);
  } catch (error) {
    if (!(error instanceof Anthropic.APIError)) throw error;
    seen[name] = {
      class: error.constructor.name,
      text: error.message,
      code: error.error.error.code,
      type: error.error.error.type,
      request_id: error.headers.get('x-request-id'),
    };
  }
}

console.log(JSON.stringify(seen));
