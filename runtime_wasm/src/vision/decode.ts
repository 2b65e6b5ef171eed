/** Any image that the platform can read, as RGB pixels. */

import { EdgecError } from "../errors.js";
import type { Pixels } from "./resize.js";

/** Raw pixels: RGB or RGBA bytes, row by row. `ImageData` is one of these. */
export interface RawImage {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** `Blob`, URL and bitmaps need a browser; Node takes raw pixels. */
export type ImageInput = RawImage | ImageData | Blob | ImageBitmap | OffscreenCanvas | string | URL;

export async function decodeImage(image: ImageInput, signal?: AbortSignal): Promise<Pixels> {
  if (isRaw(image)) return fromRaw(image);
  if (typeof createImageBitmap !== "function" || typeof OffscreenCanvas === "undefined") {
    throw new EdgecError("image", "this platform cannot decode images", {
      hint: "give raw pixels: {data, width, height} with RGB or RGBA bytes",
    });
  }
  const bitmap = await toBitmap(image, signal);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new EdgecError("image", "this browser gives no canvas to decode the image with");
  context.drawImage(bitmap, 0, 0);
  if (bitmap !== image && bitmap instanceof ImageBitmap) bitmap.close();
  return fromRaw(context.getImageData(0, 0, canvas.width, canvas.height));
}

function isRaw(image: ImageInput): image is RawImage {
  return typeof image === "object" && "data" in image && "width" in image && "height" in image;
}

async function toBitmap(
  image: Exclude<ImageInput, RawImage>,
  signal?: AbortSignal,
): Promise<ImageBitmap | OffscreenCanvas> {
  if (image instanceof ImageBitmap || image instanceof OffscreenCanvas) return image;
  const blob = image instanceof Blob ? image : await fetchImage(image as string | URL, signal);
  try {
    return await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch (cause) {
    throw new EdgecError("image", "the image cannot be decoded", {
      cause,
      hint: "use a format that the browser knows, such as JPEG, PNG or WebP",
    });
  }
}

async function fetchImage(url: string | URL, signal?: AbortSignal): Promise<Blob> {
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (cause) {
    if (signal?.aborted) throw new EdgecError("aborted", "the operation was aborted");
    throw new EdgecError("network", `the image could not be downloaded from ${url}`, { cause });
  }
  if (!response.ok)
    throw new EdgecError("http", `the server answered ${url} with status ${response.status}`, {
      status: response.status,
    });
  return response.blob();
}

function fromRaw({ data, width, height }: RawImage): Pixels {
  const count = width * height;
  if (
    !Number.isInteger(width) ||
    !Number.isInteger(height) ||
    width < 1 ||
    height < 1 ||
    (data.length !== 3 * count && data.length !== 4 * count)
  ) {
    throw new EdgecError("invalid-argument", `${data.length} bytes are no RGB or RGBA image of ${width} x ${height}`);
  }
  if (data.length === 3 * count)
    return { data: new Uint8Array(data.buffer, data.byteOffset, data.length), width, height };
  const rgb = new Uint8Array(3 * count);
  for (let i = 0; i < count; i++) {
    const alpha = data[4 * i + 3];
    for (let channel = 0; channel < 3; channel++) {
      const value = data[4 * i + channel];
      rgb[3 * i + channel] = alpha === 255 ? value : Math.floor((alpha * value + (255 - alpha) * 255 + 127) / 255);
    }
  }
  return { data: rgb, width, height };
}
