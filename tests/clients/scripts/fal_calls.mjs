// fal's other JavaScript calls: run, streamed status, image to video, cancel, refusal.
import { fal, ValidationError } from "@fal-ai/client";

fal.config({ credentials: "id:secret", proxyUrl: { url: "http://SERVER/fal/proxy", when: "always" } });

const id = "fal-ai/cogvideox-5b";
const quick = { prompt: "a red circle moves left", num_inference_steps: 4, seed: 7 };
const out = {};

const ran = await fal.run(id, { input: quick });
out.ran = { data: ran.data, requestId: ran.requestId };

const words = new Set();
const streamed = await fal.subscribe(id, {
  input: quick,
  logs: true,
  mode: "streaming",
  onQueueUpdate: (update) => words.add(update.status),
});
out.streamed = streamed.data;
out.words = [...words];

const pictured = await fal.subscribe(`${id}/image-to-video`, { input: { ...quick, image_url: "PICTURE" } });
out.pictured = pictured.data;

const { request_id: requestId } = await fal.queue.submit(id, { input: { ...quick, num_inference_steps: 50 } });
await fal.queue.cancel(id, { requestId });
await fal.queue.subscribeToStatus(id, { requestId });
out.cancelled = await fal.queue.result(id, { requestId }).then(() => 200, (error) => error.status);

out.refused = await fal.subscribe(id, { input: { ...quick, export_fps: 99 } }).then(
  () => null,
  (error) => ({ known: error instanceof ValidationError, fields: error.getFieldErrors("export_fps") }),
);
console.log(JSON.stringify(out));
