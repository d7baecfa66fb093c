// Vercel's AI SDK with fal's and Replicate's API: videos and failures. SERVER runs the fake engine, controlled by prompts.
import { createFal } from "@ai-sdk/fal";
import { createReplicate } from "@ai-sdk/replicate";
import { experimental_generateVideo as generateVideo } from "ai";

const key = "id:secret", here = "http://SERVER";
const moved = (from, to) => (url, init) => {
  const headers = new Headers(init.headers);
  headers.set("authorization", `Key ${key}`);
  return fetch(`${url}`.replace(from, to), { ...init, headers });
};
const fal = createFal({ apiKey: key, fetch: moved("https://queue.fal.run", `${here}/queue`) });
const replicate = createReplicate({ apiToken: key, baseURL: `${here}/v1` });
const poll = { intervalMs: 200 };
const picture = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAADAAAAAgAQMAAABuGmlfAAAABlBMVEUAAADcKChJHHPLAAAAE0lEQVR42mP8z8DAwMDAxDBMKQD7AQE/bZOLPAAAAABJRU5ErkJggg==";
const told = {};
const video = (model, prompt, providerOptions) => generateVideo({ model, prompt, providerOptions, poll, maxRetries: 0 });
const [text, seen] = [fal.video("cogvideox-5b"), fal.video("cogvideox-5b/image-to-video")];
const [words, image] = [replicate.video("thudm/cogvideox-t2v"), replicate.video("thudm/cogvideox-i2v")];
const work = {
  fal: () => video(text, "steps=2"),
  falPicture: () => video(seen, { image: picture, text: "steps=2" }),
  falFails: () => video(text, "fail=internal at=1"),
  falRefuses: () => video(text, "steps=2", { fal: { num_inference_steps: 500 } }),
  replicate: () => video(words, "steps=2"),
  replicatePicture: () => video(image, { image: picture, text: "steps=2" }),
  replicateFails: () => video(words, "fail=internal at=1"),
  replicateRefuses: () => video(words, "steps=2", { replicate: { num_inference_steps: 900 } }),
};
for (const [name, go] of Object.entries(work)) {
  try {
    told[name] = (await go()).video.uint8Array.length;
  } catch (error) {
    told[name] = error.message;
  }
}
console.log(JSON.stringify(told));
