/** One text or two with a tokenizer's own template around them, see docs/tasks.md, "Texts". */

import { EdgecError } from "../errors.js";
import type { Encoded } from "../session/texts.js";
import type { Tokenizer } from "./tokenizer.js";

interface Processor {
  type: string;
  processors?: Processor[];
  single?: TemplateItem[];
  pair?: TemplateItem[];
  special_tokens?: Record<string, { ids: number[] }>;
  cls?: [string, number];
  sep?: [string, number];
}

type TemplateItem = { SpecialToken: { id: string; type_id: number } } | { Sequence: { id: "A" | "B"; type_id: number } };

/** Ids that the tokenizer adds, or the place of a text: 0 is the first, 1 the second. */
type Part = { ids: number[]; type: number } | { text: 0 | 1; type: number };

/** The longer text loses its last ids first, as in the Rust tokenizers' `LongestFirst`. */
export function encodePair(tokenizer: Tokenizer, first: string, second: string | null, maxLength: number): Encoded {
  const parts = template(tokenizer.parts.processor as Processor | null, second !== null);
  const added = parts.reduce((sum, part) => sum + ("ids" in part ? part.ids.length : 0), 0);
  const room = maxLength - added;
  if (room < (second === null ? 1 : 2)) throw noRoom(maxLength);
  const texts = [tokenizer.encodePlain(first), second === null ? [] : tokenizer.encodePlain(second)];
  const kept = lengths(texts[0].length, texts[1].length, room);
  const ids: number[] = [];
  const types: number[] = [];
  for (const part of parts) {
    const own = "ids" in part ? part.ids : texts[part.text].slice(0, kept[part.text]);
    for (const id of own) ids.push(id), types.push(part.type);
  }
  return { ids, types };
}

/** The ids that the template puts before and after a text. */
export function around(tokenizer: Tokenizer): { before: number[]; after: number[] } {
  const parts = template(tokenizer.parts.processor as Processor | null, false);
  const at = parts.findIndex((part) => "text" in part);
  const ids = (some: Part[]): number[] => some.flatMap((part) => ("ids" in part ? part.ids : []));
  return { before: ids(parts.slice(0, at)), after: ids(parts.slice(at + 1)) };
}

export function noRoom(maxLength: number): EdgecError {
  return new EdgecError(
    "unsupported",
    `the model holds ${maxLength} tokens, the tokenizer's own leave no room for a text`,
  );
}

function lengths(first: number, second: number, room: number): [number, number] {
  if (first + second <= room) return [first, second];
  let short = Math.min(first, second);
  let long = short > room ? short : Math.max(short, room - short);
  if (short + long > room) {
    short = Math.floor(room / 2);
    long = short + (room % 2);
  }
  return first > second ? [long, short] : [short, long];
}

function template(processor: Processor | null | undefined, pair: boolean): Part[] {
  const bare: Part[] = [{ text: 0, type: 0 }, ...(pair ? [{ text: 1, type: 1 } as const] : [])];
  const chosen = processor?.type === "Sequence" ? processor.processors?.find(adds) : processor;
  if (!chosen || !adds(chosen)) return bare;
  if (chosen.type === "TemplateProcessing") {
    const items = (pair ? chosen.pair : chosen.single) ?? [];
    return items.map((item): Part => {
      if ("Sequence" in item) return { text: item.Sequence.id === "B" ? 1 : 0, type: item.Sequence.type_id };
      return { ids: chosen.special_tokens?.[item.SpecialToken.id]?.ids ?? [], type: item.SpecialToken.type_id };
    });
  }
  const [start, end] = [chosen.cls![1], chosen.sep![1]];
  const roberta = chosen.type === "RobertaProcessing";
  const type = roberta ? 0 : 1;
  const single: Part[] = [{ ids: [start], type: 0 }, bare[0], { ids: [end], type: 0 }];
  if (!pair) return single;
  const middle: Part[] = roberta ? [{ ids: [end], type }] : [];
  return [...single, ...middle, { text: 1, type }, { ids: [end], type }];
}

const adds = ({ type }: Processor): boolean =>
  type === "TemplateProcessing" || type === "BertProcessing" || type === "RobertaProcessing";
