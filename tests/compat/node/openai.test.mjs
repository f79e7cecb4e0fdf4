// What openai-node makes of the gateway. FAREGATE_URL and FAREGATE_KEY come from tests/compat/node_clients.py.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.FAREGATE_URL, apiKey: process.env.FAREGATE_KEY });
const ask = (text, more = {}) => ({ model: "plain", messages: [{ role: "user", content: text }], ...more });

test("chat", async () => {
  const { data, response } = await client.chat.completions.create(ask("count")).withResponse();
  assert.equal(data.choices[0].message.content, "one two three four five");
  assert.equal(data.usage.total_tokens, 12);
  assert.equal(data._request_id, response.headers.get("x-request-id"));
});

test("a stream, with usage in a last chunk without choices", async () => {
  const stream = await client.chat.completions.create(
    ask("count", { stream: true, stream_options: { include_usage: true } }),
  );
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), "one two three four five");
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 5);
});

test("the stream helper collects tool calls", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
  const final = await client.chat.completions.stream(ask("weather", { tools })).finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.arguments, '{"city": "Oslo"}');
});

test("embeddings, decoded from the base64 that the client asks for by itself", async () => {
  const answer = await client.embeddings.create({ model: "plain", input: ["abc", "de"] });
  assert.deepEqual(answer.data.map((row) => [...row.embedding]), [[3, 0.5, -0.25], [2, 0.5, -0.25]]);
});

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.equal(names[0], "auto");
  assert.equal((await client.models.retrieve("plain")).id, "plain");
});

test("an error's class and code are kept", async () => {
  await assert.rejects(client.chat.completions.create(ask("too long")), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "context_length_exceeded");
    return true;
  });
  await assert.rejects(client.chat.completions.create(ask("x", { model: "gpt-9" })), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ model: "plain", messages: [] }), OpenAI.BadRequestError);
  const stranger = new OpenAI({ baseURL: process.env.FAREGATE_URL, apiKey: "sk-wrong" });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("a rate limit keeps its retry-after", async () => {
  await assert.rejects(client.chat.completions.create(ask("too fast")), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.headers.get("retry-after"), "0.01");
    return true;
  });
});

test("a stream that dies throws", async () => {
  const stream = await client.chat.completions.create(ask("cut", { stream: true }));
  let said = "";
  await assert.rejects(async () => {
    for await (const chunk of stream) said += chunk.choices[0]?.delta.content ?? "";
  }, OpenAI.APIError);
  assert.equal(said, "one two");
});

test("a stream that is left early frees the connection", async () => {
  const stream = await client.chat.completions.create(ask("count", { stream: true }));
  for await (const _ of stream) break;
  assert.equal(stream.controller.signal.aborted, true);
});
