/** What a tokenizer.json holds, as far as it is read here. */

import type { Merge } from "./merges.js";

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
  lstrip: boolean;
  rstrip: boolean;
  single_word: boolean;
}

export interface Definition {
  added_tokens?: AddedToken[];
  decoder?: Decoder;
  post_processor?: unknown;
  model: {
    type: string;
    vocab: Record<string, number> | [string, number][];
    unk_id?: number | null;
    unk_token?: string | null;
    merges?: Merge[];
    ignore_merges?: boolean;
    continuing_subword_prefix?: string | null;
    end_of_word_suffix?: string | null;
  };
}

export interface Decoder {
  type: string;
  decoders?: Decoder[];
}
