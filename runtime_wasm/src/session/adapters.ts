/** Low-rank adapters of a loaded model: kept beside it, and one of them at a time in its memory. */

import { type AdapterFile, readAdapterFile } from "../bundle/adapters.js";
import type { AdapterSpace } from "../bundle/manifest.js";
import type { Engine } from "../engine/engine.js";
import { EdgecError } from "../errors.js";

export class Adapters {
  private readonly loaded = new Map<string, AdapterFile>();
  active: string | null = null;

  constructor(private readonly engine: Engine) {}

  /** Checks the bytes of a file; it is used from `use` on. Returns its name. */
  async load(bytes: Uint8Array, name: string | undefined): Promise<string> {
    const adapter = await readAdapterFile(bytes, this.space());
    const key = name ?? adapter.name;
    this.loaded.set(key, adapter);
    if (this.active === key) this.place(adapter);
    return key;
  }

  use(name: string | null): void {
    if (name === null) {
      if (this.engine.manifest.adapters) this.setRank(0);
    } else {
      this.space();
      const adapter = this.loaded.get(name);
      if (!adapter) {
        throw new EdgecError("invalid-argument", `no adapter \`${name}\` is loaded`, {
          hint: `loaded are ${[...this.loaded.keys()].map((other) => `\`${other}\``).join(", ") || "none"}`,
        });
      }
      this.place(adapter);
    }
    this.active = name;
  }

  /** The model without its adapter. */
  async suspended<T>(task: () => Promise<T>): Promise<T> {
    const { active } = this;
    this.use(null);
    try {
      return await task();
    } finally {
      this.use(active);
    }
  }

  private place({ rank, pieces }: AdapterFile): void {
    this.setRank(0);
    for (const { address, length, bytes } of pieces) {
      const target = this.engine.bytes(address, length);
      if (bytes) target.set(bytes);
      else target.fill(0);
    }
    this.setRank(rank);
  }

  private setRank(rank: number): void {
    this.engine.int32(this.space().switch, 1)[0] = rank;
  }

  private space(): AdapterSpace {
    const { adapters, model } = this.engine.manifest;
    if (!adapters) {
      throw new EdgecError("unsupported", `\`${model.name}\` has no room for adapters`, {
        hint: "compile the model with `--adapters RANK`",
      });
    }
    return adapters;
  }
}
