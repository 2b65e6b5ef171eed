// A static server for tests and measurements: mounts folders, with or without cross-origin isolation, ranges, and faults on demand.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".bin": "application/octet-stream",
};
const PAGE =
  '<!doctype html><html lang="en"><meta charset="utf-8"><title>edgec</title><link rel="icon" href="data:,"></html>';

/**
 * @typedef {"status" | "html" | "truncate" | "zero" | "swap" | "stall" | "silent" | "reset"} FaultKind
 * @typedef {{match: RegExp, kind: FaultKind, status?: number, with?: string, times?: number}} Fault
 *   `swap` sends the file `with` (a URL path) instead; `times` limits how often the fault strikes.
 */

export class TestServer {
  /** @type {Fault[]} */
  faults = [];
  /** URL paths that were asked for. */
  requests = [];
  isolation = true;
  /** How fast bytes leave, over all connections together, as over a user's link. */
  bytesPerSecond = Infinity;
  /** URL path -> when its last byte was handed to the connection, milliseconds since 1970. @type {Map<string, number>} */
  sentAt = new Map();
  /** Sent with every answer. @type {Record<string, string>} */
  headers = {};

  /** @param {Record<string, string>} mounts URL prefix -> folder; "/" answers with an empty page */
  constructor(mounts) {
    this.mounts = Object.entries(mounts).sort(([a], [b]) => b.length - a.length);
    this.server = createServer((request, response) => {
      this.answer(request, response).catch(() => response.destroy());
    });
  }

  /** Starts on a free port of this machine; returns the origin. */
  async start() {
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.origin = `http://127.0.0.1:${this.server.address().port}`;
    return this.origin;
  }

  async stop() {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  file(path) {
    const mount = this.mounts.find(([prefix]) => path.startsWith(prefix));
    if (!mount) return null;
    const relative = normalize(path.slice(mount[0].length));
    return relative.startsWith("..") ? null : join(mount[1], relative);
  }

  async answer(request, response) {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    this.requests.push(path);
    response.setHeader("Cache-Control", "no-store");
    response.setHeader("Access-Control-Allow-Origin", "*");
    if (this.isolation) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
      response.setHeader("Cross-Origin-Resource-Policy", "cross-origin");
    }
    for (const [name, value] of Object.entries(this.headers)) response.setHeader(name, value);
    const fault = this.faults.find(({ match, times }) => match.test(path) && times !== 0);
    if (fault?.times) fault.times--;
    if (fault && ["status", "html"].includes(fault.kind)) {
      response.writeHead(fault.status ?? 200, { "Content-Type": "text/html" }).end(PAGE);
      return;
    }
    if (fault?.kind === "silent") return;
    if (path === "/") {
      response.writeHead(200, { "Content-Type": TYPES[".html"] }).end(PAGE);
      return;
    }
    await this.send(this.file(fault?.kind === "swap" ? fault.with : path), request, response, fault);
  }

  async send(file, request, response, fault) {
    const info = file && (await stat(file).catch(() => null));
    if (!info?.isFile()) {
      response.writeHead(404, { "Content-Type": "text/plain" }).end("not found");
      return;
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const start = range ? Number(range[1]) : 0;
    let end = range?.[2] ? Math.min(Number(range[2]), info.size - 1) : info.size - 1;
    if (fault?.kind === "truncate") end = Math.floor(info.size / 2) - 1;
    response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
    response.setHeader("Accept-Ranges", "bytes");
    if (range) response.setHeader("Content-Range", `bytes ${start}-${end}/${info.size}`);
    response.setHeader("Content-Length", end - start + 1);
    response.writeHead(range ? 206 : 200);
    if (request.method === "HEAD") {
      response.end();
    } else if (fault?.kind === "zero") {
      response.end(Buffer.alloc(end - start + 1));
    } else if (fault?.kind === "stall" || fault?.kind === "reset") {
      createReadStream(file, { start, end: start + Math.floor((end - start) / 2) })
        .on("data", (chunk) => response.write(chunk))
        .on("end", () => {
          if (fault.kind === "reset") setTimeout(() => response.destroy(), 20);
        });
    } else {
      const whole = createReadStream(file, { start, end });
      await pipeline(...(this.bytesPerSecond < Infinity ? [whole, (chunks) => this.paced(chunks)] : [whole]), response);
      this.sentAt.set(request.url, performance.timeOrigin + performance.now());
    }
  }

  /** Passes bytes on at `bytesPerSecond`. */
  async *paced(chunks) {
    for await (const chunk of chunks) {
      this.free = Math.max(this.free ?? 0, performance.now()) + (1000 * chunk.length) / this.bytesPerSecond;
      await sleep(this.free - performance.now());
      yield chunk;
    }
  }
}
