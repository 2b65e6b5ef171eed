/** The merges of a BPE model by the ids of their parts: 12 bytes each and free places, where the library keeps several strings and arrays. */

export type Merge = string | [string, string];

const FIELDS = 3; // first id, second id, rank
const FREE = -1;

export class Merges {
  private table = emptyTable(1 << 10);
  private count = 0;

  /** Where a merge comes twice, the later one counts, as in the library. Merges of what the vocabulary lacks can never apply. */
  constructor(
    merges: Iterable<Merge>,
    private readonly ids: ReadonlyMap<string, number>,
  ) {
    let rank = 0;
    for (const merge of merges) {
      const [first, second] = split(merge);
      const [a, b] = [ids.get(first), ids.get(second)];
      if (a !== undefined && b !== undefined) this.add(a, b, rank);
      rank++;
    }
  }

  private add(a: number, b: number, rank: number): void {
    let place = this.place(a, b);
    if (this.table[place] === FREE && FIELDS * ++this.count > 0.8 * this.table.length) {
      const old = this.table;
      this.table = emptyTable((2 * old.length) / FIELDS);
      for (let i = 0; i < old.length; i += FIELDS)
        if (old[i] !== FREE) this.table.set(old.subarray(i, i + FIELDS), this.place(old[i], old[i + 1]));
      place = this.place(a, b);
    }
    this.table[place] = a;
    this.table[place + 1] = b;
    this.table[place + 2] = rank;
  }

  /** How early the two are joined, undefined if they are not. */
  rank(first: string, second: string): number | undefined {
    const [a, b] = [this.ids.get(first), this.ids.get(second)];
    if (a === undefined || b === undefined) return undefined;
    const place = this.place(a, b);
    return this.table[place] === FREE ? undefined : this.table[place + 2];
  }

  /** Where the pair is or would be. */
  private place(a: number, b: number): number {
    const places = this.table.length / FIELDS;
    let at = (Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b)) >>> 0;
    for (at ^= at >>> 15; ; at++) {
      const place = FIELDS * ((at & (places - 1)) >>> 0);
      const found = this.table[place];
      if (found === FREE || (found === a && this.table[place + 1] === b)) return place;
    }
  }
}

const emptyTable = (places: number): Int32Array => new Int32Array(FIELDS * places).fill(FREE);

/** At the first blank, as in files of merges. */
export function split(merge: Merge): [string, string] {
  if (typeof merge !== "string") return merge;
  const [first, second] = merge.split(" ", 2);
  return [first, second];
}
