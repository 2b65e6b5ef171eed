// Ids of texts and chats, and texts of ids, as the JavaScript runtime sees them.
//   node encode.mjs EDGEC_JS BUNDLE < {"texts": [...], "chats": [[...]], "ids": [[...]]}

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [runtime, bundle] = process.argv.slice(2);
const { load } = await import(pathToFileURL(runtime));
const { texts, chats, ids } = JSON.parse(readFileSync(0, "utf8"));
const model = await load(bundle, { worker: false, threads: 1 });
const result = { texts: [], chats: [], decoded: [] };
for (const text of texts) result.texts.push(await model.encode(text));
for (const messages of chats) result.chats.push(await model.encode(messages));
for (const some of ids) result.decoded.push(await model.decode(some));
await model.dispose();
console.log(JSON.stringify(result));
