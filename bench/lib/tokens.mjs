// What is measured of language models: a prompt's tokens, and the tokens of the answer.

import { timed } from "./measure.mjs";

/** Tokens per second of the three measures; `decode` follows the long prompt, `decodeShort` the short one. */
export const MEASURES = ["prefill", "decode", "decodeShort"];

/** One turn; a contender may have `decodeTokens` of its own. */
export async function turn(engine, { threads, ...own }, { prompt, shortPrompt, promptTokens, ...work }) {
  const decodeTokens = own.decodeTokens ?? work.decodeTokens;
  const perSecond = ({ tokens, seconds, text }) => ({ speed: tokens / seconds, tokens, ...(text === undefined ? {} : { text }) });
  const prefill = await timed(engine, threads, async () => perSecond(await engine.prefill(prompt)));
  if (prefill.tokens !== promptTokens) throw new Error(`the prompt has ${prefill.tokens} tokens here, not ${promptTokens}`);
  const decode = await timed(engine, threads, async () => perSecond(await engine.decode(decodeTokens)));
  await engine.prefill(shortPrompt);
  const decodeShort = await timed(engine, threads, async () => perSecond(await engine.decode(decodeTokens)));
  return { prefill, decode, decodeShort };
}
