// fal's published JavaScript sample, preceded by the line that redirects it to this server.
import { fal } from "@fal-ai/client";

fal.config({ credentials: "id:secret", proxyUrl: { url: "http://SERVER/fal/proxy", when: "always" } });

const result = await fal.subscribe("fal-ai/cogvideox-5b", {
  input: {
    prompt: "a red circle moves left",
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach((message) => console.log(message));
    }
  },
});
console.log(JSON.stringify({ data: result.data, requestId: result.requestId }));
