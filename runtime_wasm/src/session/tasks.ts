/**
 * The code of tasks, in scripts that only models with such a task need. It is fetched together with the model, since the page may be
 * offline when it is used first.
 */

import type { KnownTask, Task } from "../bundle/task.js";

export type TaskType = KnownTask["type"];

const CODE = {
  embedding: () => import("./embedding.js"),
  "text-classification": () => import("./text_tasks.js"),
  "token-classification": () => import("./text_tasks.js"),
  "semantic-segmentation": () => import("./segmentation.js"),
  "image-classification": () => import("./pictures.js"),
  "object-detection": () => import("./pictures.js"),
  "text-image-similarity": () => import("./pictures.js"),
  ocr: () => import("./pictures.js"),
  transcription: () => import("./sounds.js"),
  "speech-detection": () => import("./sounds.js"),
} satisfies Record<TaskType, () => Promise<object>>;

export type TaskCode<T extends TaskType = TaskType> = Awaited<ReturnType<(typeof CODE)[T]>>;

/** null: the model has no task, or one that this version does not know. */
export function fetchTaskCode(task: Task | null): Promise<TaskCode> | null {
  return task && Object.hasOwn(CODE, task.type) ? CODE[task.type as TaskType]() : null;
}
