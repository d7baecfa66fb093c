// Every call of fal's JavaScript client, against the fake engine, controlled by prompts. WAY is proxy or middleware.
import { fal, ApiError, ValidationError } from "@fal-ai/client";

const there = (url) =>
  url
    .replace("https://queue.fal.run", "http://SERVER/queue")
    .replace("https://fal.run", "http://SERVER/run")
    .replace(/https:\/\/rest(\.alpha)?\.fal\.ai/, "http://SERVER");
const ways = {
  proxy: { proxyUrl: { url: "http://SERVER/fal/proxy", when: "always" } },
  middleware: { requestMiddleware: async (request) => ({ ...request, url: there(request.url) }) },
};
const asked = []; // fetched URLs, to check that all requests go to SERVER
const config = {
  credentials: "id:secret",
  ...ways["WAY"],
  fetch: (url, options) => {
    asked.push(String(url));
    return fetch(there(String(url)), options); // only the client-mode stream still uses fal's own URL
  },
};
fal.config(config);

const id = "fal-ai/cogvideox-5b";
const input = { prompt: "steps=2", seed: 7 };
const out = {};
const failure = (promise) =>
  promise.then(
    () => null,
    (error) => ({ known: error instanceof ApiError, status: error.status, message: error.message, body: error.body }),
  );

const ran = await fal.run(id, { input, startTimeout: 30, storageSettings: { expiresIn: "1h" } });
out.ran = { data: ran.data, requestId: ran.requestId };
out.got = (await fal.run(id, { input: { prompt: "steps=2" }, method: "get" })).data;

for (const mode of ["polling", "streaming"]) {
  const words = new Set();
  const logs = [];
  const result = await fal.subscribe(id, {
    input: { ...input, prompt: "steps=5 sleep=0.1" },
    logs: true,
    mode,
    pollInterval: 50,
    onQueueUpdate: (update) => {
      words.add(update.status);
      if (update.logs) logs.splice(0, logs.length, ...update.logs.map((log) => log.message));
    },
  });
  out[mode] = { data: result.data, requestId: result.requestId, words: [...words], logs };
}

const { request_id: requestId, ...receipt } = await fal.queue.submit(id, {
  input,
  webhookUrl: "HOOK",
  priority: "low",
  hint: "h",
  headers: { "X-Fal-No-Retry": "1" },
});
out.receipt = { requestId, ...receipt };
await fal.queue.subscribeToStatus(id, { requestId, logs: true });
out.status = await fal.queue.status(id, { requestId, logs: true });
const stream = await fal.queue.streamStatus(id, { requestId, logs: true });
out.streamed = await stream.done();
out.result = (await fal.queue.result(id, { requestId })).data;
out.late = await failure(fal.queue.cancel(id, { requestId }));

const slow = await fal.queue.submit(id, { input: { ...input, prompt: "steps=3000 sleep=0.02" } });
out.early = await failure(fal.queue.result(id, { requestId: slow.request_id }));
await fal.queue.cancel(id, { requestId: slow.request_id });
await fal.queue.subscribeToStatus(id, { requestId: slow.request_id, pollInterval: 50 });
out.cancelled = await failure(fal.queue.result(id, { requestId: slow.request_id }));

const failing = { ...input, prompt: "fail=internal" };
out.failed = await failure(fal.subscribe(id, { input: failing, pollInterval: 50 }));
out.failedRun = await failure(fal.run(id, { input: failing }));
out.refused = await fal.subscribe(id, { input: { ...input, export_fps: 99 } }).then(
  () => null,
  (error) => ({ known: error instanceof ValidationError, fields: error.getFieldErrors("export_fps") }),
);
out.unknown = await failure(fal.queue.status(id, { requestId: "nothing" }));
out.unknownCancel = await failure(fal.queue.cancel(id, { requestId: "nothing" }));
out.noApp = await failure(fal.run("fal-ai/flux/dev", { input }));

const picture = new Blob([Buffer.from("PICTURE", "base64")], { type: "image/png" });
out.uploaded = await fal.storage.upload(new File([picture], "red circle.png", { type: "image/png" }));
out.brief = await fal.storage.upload(picture, { lifecycle: { expiresIn: "immediate" } });
const large = new Blob([new Uint8Array(91 * 1024 * 1024).fill(7)], { type: "video/mp4" }); // uploaded in ten parts
out.large = await fal.storage.upload(large);
for (const [name, image_url] of [["fromUrl", out.uploaded], ["fromBlob", picture]])
  out[name] = (await fal.subscribe(`${id}/image-to-video`, { input: { ...input, image_url } })).data;

const ended = (options) =>
  new Promise((resolve) =>
    fal.stream(id, { input, ...options }).then((stream) => {
      stream.done().catch(() => null);
      stream.on("error", (error) => resolve({ status: error.status, body: error.body }));
    }),
  );
out.noStream = await ended({});
out.noClientStream = await ended({ connectionMode: "client" });

fal.config({ ...config, credentials: "no:no" });
out.wrongKey = await failure(fal.run(id, { input }));
out.wrongKeyUpload = await failure(fal.storage.upload(picture));
fal.config({ ...config, credentials: undefined });
out.noKey = await failure(fal.queue.submit(id, { input }));

out.elsewhere = asked.filter((url) => !url.startsWith("http://SERVER/"));
console.log(JSON.stringify(out));
