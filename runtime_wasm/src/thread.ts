/** Entry file of a pool thread. */

import { type ThreadStart, serve } from "./engine/engine.js";
import type { ThreadReport } from "./engine/pool.js";
import { workerScope } from "./workers/scope.js";

const scope = workerScope();
const report = (message: ThreadReport): void => scope.post(message);

scope.onMessage((message) => {
  const { start, alarm } = message as { start: ThreadStart; alarm?: string };
  try {
    serve(start, () => report({ type: "ready" }));
  } catch (error) {
    const text = (error as Error).message;
    report({ type: "failed", message: text });
    if (alarm) new BroadcastChannel(alarm).postMessage(text);
  }
});
