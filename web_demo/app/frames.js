/** Pictures of a file: itself, or frames of a video. */

const THUMBNAIL = 320; // longest side, pixels
const FRAME = 1024; // longest side of what a model sees
const PATIENCE = 10_000; // ms for a video that neither seeks nor fails

/** A sentence for the user. */
export class FileError extends Error {}

/**
 * @typedef {object} Frame
 * @property {HTMLCanvasElement} picture for the model
 * @property {number | null} time seconds from the video's beginning, null for pictures
 */

/** @param {File} file */
export function isVideo({ type, name }) {
  return type.startsWith("video/") || /\.(mp4|m4v|mov|webm|mkv|ogv)$/i.test(name);
}

/** @param {File} file */
export function isPicture({ type, name }) {
  return type.startsWith("image/") || /\.(jpe?g|png|webp|gif|bmp|avif)$/i.test(name);
}

/**
 * @param {File} file
 * @param {number} every seconds between frames of a video
 * @returns {AsyncGenerator<Frame>}
 */
export async function* framesOf(file, every) {
  if (isVideo(file)) yield* framesOfVideo(file, every);
  else yield { picture: await pictureOf(file), time: null };
}

/** @param {File} file */
async function pictureOf(file) {
  /** @type {ImageBitmap} */
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new FileError(`\`${file.name}\` is no picture that this browser can read`);
  }
  const picture = drawn(bitmap, bitmap.width, bitmap.height, Infinity);
  bitmap.close();
  return picture;
}

/**
 * @param {File} file
 * @param {number} every
 * @returns {AsyncGenerator<Frame>}
 */
async function* framesOfVideo(file, every) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.playsInline = true;
  const address = URL.createObjectURL(file);
  try {
    video.src = address;
    await until(video, "loadeddata", file);
    // Streams that were never finished, such as recordings, do not say how long they are until one has been to their end.
    if (!Number.isFinite(video.duration)) {
      video.currentTime = Number.MAX_SAFE_INTEGER;
      await until(video, "seeked", file);
    }
    const count = Math.max(1, Math.ceil(video.duration / every));
    for (let index = 0; index < count; index++) {
      video.currentTime = index * every;
      await until(video, "seeked", file);
      yield { picture: drawn(video, video.videoWidth, video.videoHeight, FRAME), time: index * every };
    }
  } finally {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(address);
  }
}

/**
 * @param {HTMLVideoElement} video
 * @param {"loadeddata" | "seeked"} event
 * @param {File} file
 */
function until(video, event, { name }) {
  return new Promise((resolve, reject) => {
    const fail = () => reject(new FileError(`\`${name}\` is no video that this browser can show`));
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", fail, { once: true });
    setTimeout(fail, PATIENCE);
  });
}

/**
 * @param {CanvasImageSource} source
 * @param {number} width
 * @param {number} height
 * @param {number} longest
 */
function drawn(source, width, height, longest) {
  const ratio = Math.min(1, longest / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.getContext("2d")?.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** @param {HTMLCanvasElement} picture */
export function thumbnailOf(picture) {
  return drawn(picture, picture.width, picture.height, THUMBNAIL);
}
