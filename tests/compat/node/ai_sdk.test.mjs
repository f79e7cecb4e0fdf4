// What the Vercel AI SDK makes of the gateway.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, streamText, tool } from "ai";

const provider = createOpenAICompatible({
  name: "faregate",
  baseURL: process.env.FAREGATE_URL,
  apiKey: process.env.FAREGATE_KEY,
  includeUsage: true,
});
const model = provider("plain");

test("text", async () => {
  const { text, finishReason, usage } = await generateText({ model, prompt: "count" });
  assert.equal(text, "one two three four five");
  assert.equal(finishReason, "stop");
  assert.equal(usage.totalTokens, 12);
});

test("a stream with its usage", async () => {
  const result = streamText({ model, prompt: "count" });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.equal(text, "one two three four five");
  assert.equal((await result.usage).outputTokens, 5);
  assert.equal(await result.finishReason, "stop");
});

test("tool calls", async () => {
  const weather = tool({ inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }) });
  const asked = { model, prompt: "weather", tools: { weather } };
  const collected = (await generateText(asked)).toolCalls;
  const streamed = await streamText(asked).toolCalls;
  for (const calls of [collected, streamed]) assert.deepEqual(calls.map((call) => call.input), [{ city: "Oslo" }]);
});

test("embeddings", async () => {
  const { embeddings } = await embedMany({ model: provider.embeddingModel("plain"), values: ["abc", "de"] });
  assert.deepEqual(embeddings, [[3, 0.5, -0.25], [2, 0.5, -0.25]]);
});

test("an error's words arrive", async () => {
  const failing = generateText({ model, prompt: "too long", maxRetries: 0 });
  await assert.rejects(failing, (error) => {
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /maximum context is 10 tokens/);
    return true;
  });
});

test("a stream that dies is an error, and no clean end", async () => {
  const parts = [];
  const result = streamText({ model, prompt: "cut", maxRetries: 0, onError: () => {} });
  // The SDK tells of the error event in a part, and throws when the cut itself is what it meets first.
  const thrown = await (async () => {
    for await (const part of result.fullStream) parts.push(part);
  })().catch((error) => error);
  assert.ok(thrown instanceof Error || parts.some((part) => part.type === "error"));
  assert.ok(!parts.some((part) => part.type === "finish" && part.finishReason === "stop"));
  assert.ok("one two".startsWith(parts.filter((p) => p.type === "text-delta").map((p) => p.text).join("")));
});
