export type FaultKind = "status" | "html" | "truncate" | "zero" | "swap" | "stall" | "silent" | "reset";

export interface Fault {
  match: RegExp;
  kind: FaultKind;
  status?: number;
  /** For `swap`: the URL path whose file is sent instead. */
  with?: string;
  /** How often the fault strikes. */
  times?: number;
}

export declare class TestServer {
  faults: Fault[];
  requests: string[];
  isolation: boolean;
  bytesPerSecond: number;
  sentAt: Map<string, number>;
  headers: Record<string, string>;
  origin: string;
  constructor(mounts: Record<string, string>);
  start(): Promise<string>;
  stop(): Promise<void>;
}
