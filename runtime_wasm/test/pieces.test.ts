import assert from "node:assert/strict";
import { test } from "node:test";
import { isArray, isObject, membersOf, parseWithout, pieces, rootOf } from "../src/text/pieces.js";

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Strings with all that looks like structure. */
const awkward = (at: number): string => `${at}\u0120"\\{[}],: \u{1f600}`.repeat(1 + (at % 5));

test("a long object and a long array come in pieces, the rest without them", () => {
  for (const indent of [0, 2]) {
    const list = Array.from({ length: 5000 }, (_, at) => (at % 3 ? awkward(at) : [awkward(at), { x: [at, null] }]));
    const object = Object.fromEntries(Array.from({ length: 5000 }, (_, at) => [awkward(at), at]));
    const rest = { before: [1, { list: 2 }], "\u0120": "]}", after: { object: {} } };
    const json = encode(` ${JSON.stringify({ ...rest, object, list, "esc\"aped": true }, null, indent)}\n`);
    const members = membersOf(json, rootOf(json));
    assert.deepEqual([...members.keys()], ["before", "\u0120", "after", "object", "list", 'esc"aped']);
    const [first, second] = [members.get("object"), members.get("list")];
    assert.ok(isObject(json, first) && isArray(json, second));
    const ofObject = [...pieces(json, first)] as object[];
    const ofList = [...pieces(json, second)] as unknown[][];
    assert.ok(ofObject.length > 5 && ofList.length > 5);
    assert.deepEqual(Object.assign({}, ...ofObject), object);
    assert.deepEqual(ofList.flat(), list);
    assert.deepEqual(parseWithout(json, [second, first]), { ...rest, object: {}, list: [], 'esc"aped': true });
  }
});

test("what is empty, and the last of two values with one key", () => {
  const json = encode('{"a": {}, "b": [ ], "a": [1]}');
  const members = membersOf(json, rootOf(json));
  assert.deepEqual([...pieces(json, members.get("a")!)], [[1]]);
  assert.deepEqual([...pieces(json, members.get("b")!)], [[]]);
  assert.equal(membersOf(encode("{}"), 0).size, 0);
});

test("what is no JSON", () => {
  for (const text of ['{"a": [1, 2', '{"a": ["x]}', '{"a": [1 2]}', '{"a": [1,,2]}', '{"a": [1}}']) {
    const json = encode(text);
    assert.throws(() => [...pieces(json, membersOf(json, 0).get("a")!)].concat(parseWithout(json, [6])), SyntaxError, text);
  }
});
