import { cpus, loadavg, platform, totalmem } from "node:os";

/** What kind of machine this is; nothing that identifies it. */
export function describeMachine() {
  const processors = cpus();
  return {
    processor: processors[0]?.model.trim() ?? "unknown",
    cores: processors.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: platform(),
    loadAverage: loadavg()[0],
  };
}
