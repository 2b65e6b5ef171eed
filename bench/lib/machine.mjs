import { readFileSync } from "node:fs";
import { cpus, loadavg, platform, totalmem } from "node:os";

/** What kind of machine this is; nothing that identifies it. */
export function describeMachine() {
  const processors = cpus();
  return {
    processor: (processors[0]?.model.trim() ?? "unknown") + dots(),
    cores: processors.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: platform(),
    loadAverage: loadavg()[0],
  };
}

/** Browsers make one instruction of a dot product of bytes where an x86 processor has AVX-VNNI, else three. */
function dots() {
  if (process.arch !== "x64" || platform() !== "linux") return "";
  const flags = readFileSync("/proc/cpuinfo", "utf8").match(/^flags\s*:(.*)$/m)?.[1].split(" ") ?? [];
  return flags.includes("avx_vnni") ? " with AVX-VNNI" : " without AVX-VNNI";
}
