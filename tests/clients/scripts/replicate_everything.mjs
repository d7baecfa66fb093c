// Replicate's JavaScript client. SERVER makes real videos; STAND_IN runs the fake engine, controlled by prompts.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

import Replicate, { parseProgressFromLogs, validateWebhook } from "replicate";

const model = "cuuupid/cogvideox-5b";
const client = (host, more = {}) => new Replicate({ auth: "id:secret", baseUrl: `http://${host}/v1`, ...more });
const replicate = client("STAND_IN");
const told = {};
const caught = async (work) => {
  try {
    return { done: await work() };
  } catch (error) {
    return { status: error.response?.status, message: error.message };
  }
};
const bytes = async (output) => Buffer.from(await (await output.blob()).arrayBuffer());

// a video, read as in the client's own sample
const output = await client("SERVER").run(model, { input: { prompt: "a red circle moves left", steps: 3 } });
told.film = (await bytes(output)).toString("base64");

// a call whose blocking time is too short continues by polling
const seen = [];
const later = await replicate.run(
  model,
  { input: { prompt: "steps=15 sleep=0.1" }, wait: { mode: "block", timeout: 1 } },
  (prediction) => seen.push([prediction.status, parseProgressFromLogs(prediction)]),
);
told.later = (await bytes(later)).length;
told.seen = seen;

// by polling, by version, by deployment
const { latest_version: version } = await replicate.models.get("cuuupid", "cogvideox-5b");
const { results: versions } = await replicate.models.versions.list("cuuupid", "cogvideox-5b");
told.versions = [version.id, versions[0].id, (await replicate.models.versions.get("cuuupid", "cogvideox-5b", version.id)).id];
const created = await replicate.predictions.create({ version: version.id, input: { prompt: "steps=2" } });
const waited = await replicate.wait(created, { interval: 100 });
told.polled = [created.status, waited.status, (await replicate.predictions.get(created.id)).status, waited.output.slice(0, 20)];
const deployed = await replicate.deployments.predictions.create("acme", "films", { input: { prompt: "steps=2" }, wait: true });
told.deployed = [deployed.status, deployed.deployment, (await replicate.deployments.get("acme", "films")).current_release.model];
const plain = client("STAND_IN", { userAgent: "my-program" });
told.address = await plain.run(`${model}:${version.id}`, { input: { prompt: "steps=2" } });

// cancelled, by call and by signal
const slow = await replicate.predictions.create({ model, input: { prompt: "steps=3000 sleep=0.02" } });
while ((await replicate.predictions.get(slow.id)).status === "starting") await new Promise((done) => setTimeout(done, 100));
told.cancelled = (await replicate.predictions.cancel(slow.id)).status;

// failures
told.failed = await caught(() => replicate.run(model, { input: { prompt: "fail=internal at=1" } }));
told.refused = await caught(() => replicate.run(model, { input: { prompt: "a", steps: 500 } }));
told.wrongKey = await caught(() => client("STAND_IN", { auth: "wrong" }).predictions.list());
told.unknown = await caught(() => replicate.predictions.get("a".repeat(26)));

// files: uploaded explicitly, and as an input
const picture = new File([await readFile("circle.png")], "circle.png", { type: "image/png" });
const file = await replicate.files.create(picture, { by: "me" });
told.file = { ...file, same: (await replicate.files.get(file.id)).id === file.id };
told.fetched = Buffer.from(await (await fetch(file.urls.get)).arrayBuffer()).equals(await readFile("circle.png"));
told.removed = await replicate.files.delete(file.id);
told.gone = await caught(() => replicate.files.get(file.id));
const pictured = await replicate.predictions.create({
  model: "thudm/cogvideox-i2v",
  input: { prompt: "steps=2", image: picture },
  wait: true,
});
told.pictured = [pictured.status, pictured.input.image];

// a webhook, verified with the client's own function
const heard = [];
const ear = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  heard.push({ headers: request.headers, body: Buffer.concat(parts).toString() });
  response.end();
});
await new Promise((done) => ear.listen(0, "127.0.0.1", done));
const { key } = await replicate.webhooks.default.secret.get();
await replicate.run(model, {
  input: { prompt: "steps=3" },
  webhook: `http://127.0.0.1:${ear.address().port}/hook`,
  webhook_events_filter: ["start", "completed"],
});
while (heard.length < 2) await new Promise((done) => setTimeout(done, 50));
ear.close();
told.hooks = [];
for (const { headers, body } of heard) {
  const valid = await validateWebhook({ headers, body }, key);
  const forged = await validateWebhook({ headers, body: body.replace("steps", "STEPS") }, key);
  told.hooks.push([JSON.parse(body).status, valid, forged]);
}

// events as they happen
told.events = [];
for await (const event of replicate.stream(model, { input: { prompt: "steps=3 sleep=0.1" } })) told.events.push(event.event);

// the rest
const pages = [];
for await (const page of replicate.paginate(replicate.predictions.list)) pages.push(page.length);
told.listed = pages;
told.account = (await replicate.accounts.current()).username;
told.hardware = (await replicate.hardware.list()).length;
told.collection = (await replicate.collections.get("text-to-video")).models.length;
console.log(JSON.stringify(told));
