// What a partner writes in TypeScript with a generated client: three ways to send an image, and a refusal that is typed.
import { readFileSync } from "node:fs";

import { keysOwn, predictionsModels, predictionsPredict } from "./generated";
import type { Predictions, PredictionsPredictErrors, PredictionsPredictResponses, Problem } from "./generated";
import { createClient } from "./generated/client";

const [baseUrl, apiKey, file] = process.argv.slice(2) as [string, string, string];
const client = createClient({ baseUrl, auth: apiKey });
const image = readFileSync(file);
const url = "/v1/models/{model}/predict";
const security = [{ scheme: "bearer", type: "http" }] as const;

async function main(): Promise<void> {
  const hosted = await predictionsModels({ client, throwOnError: true });
  const card = hosted.data.models[0];
  if (card === undefined) throw new Error("no model is hosted");
  const path = { model: card.name };

  const json = await predictionsPredict({
    client,
    path,
    query: { top_k: 3, temperature: 2 },
    headers: { "Idempotency-Key": "from-typescript" },
    body: { images: [image.toString("base64")] },
    throwOnError: true,
  });

  // The generator types one kind of body of each call; the others go through the same client, answers typed alike.
  const raw = await client.post<PredictionsPredictResponses, PredictionsPredictErrors, true>({
    url,
    path,
    security,
    body: image,
    bodySerializer: null,
    headers: { "Content-Type": "image/png" },
    throwOnError: true,
  });
  const form = new FormData();
  form.append("image", new Blob([image], { type: "image/png" }), "image.png");
  const multipart = await client.post<PredictionsPredictResponses, PredictionsPredictErrors, true>({
    url,
    path,
    security,
    body: form,
    bodySerializer: null,
    headers: { "Content-Type": null },
    throwOnError: true,
  });

  const answers: Predictions[] = [json.data, raw.data, multipart.data];
  const own = await keysOwn({ client, throwOnError: true });
  const refused = await keysOwn({ client: createClient({ baseUrl, auth: "not a key" }) });
  const problem: Problem | undefined = refused.error;
  if (problem === undefined) throw new Error("a wrong key was accepted");

  console.log(
    JSON.stringify({
      labels: answers.map((answer) => answer.predictions[0]?.label),
      tiers: answers.map((answer) => answer.tier),
      logits: json.data.predictions[0]?.logits.length,
      remaining: own.data.budget.remaining,
      problem: [problem.status, problem.code, problem.request_id.length],
    }),
  );
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
