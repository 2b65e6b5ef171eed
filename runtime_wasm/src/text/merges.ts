/** The merges of a BPE model by the ids of their parts: 12 bytes each and free places, where the library keeps several strings and arrays. */

export type Merge = string | [string, string];

const FIELDS = 3; // first id, second id, rank
const FREE = -1;

export class Merges {
  private readonly table: Int32Array;
  private readonly mask: number;

  /** Where a merge comes twice, the later one counts, as in the library. Merges of what the vocabulary lacks can never apply. */
  constructor(
    merges: readonly Merge[],
    private readonly ids: ReadonlyMap<string, number>,
  ) {
    const places = 2 ** Math.ceil(Math.log2(1.5 * merges.length + 2));
    this.mask = places - 1;
    this.table = new Int32Array(FIELDS * places).fill(FREE);
    merges.forEach((merge, rank) => {
      const [first, second] = split(merge);
      const place = this.place(first, second);
      if (place < 0) return;
      this.table[place] = ids.get(first)!;
      this.table[place + 1] = ids.get(second)!;
      this.table[place + 2] = rank;
    });
  }

  /** How early the two are joined, undefined if they are not. */
  rank(first: string, second: string): number | undefined {
    const place = this.place(first, second);
    return place >= 0 && this.table[place] !== FREE ? this.table[place + 2] : undefined;
  }

  /** Where the pair is or would be; negative if one of the two is not in the vocabulary. */
  private place(first: string, second: string): number {
    const a = this.ids.get(first);
    const b = this.ids.get(second);
    if (a === undefined || b === undefined) return -1;
    let at = (Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b)) >>> 0;
    for (at ^= at >>> 15; ; at++) {
      const place = FIELDS * (at & this.mask);
      const found = this.table[place];
      if (found === FREE || (found === a && this.table[place + 1] === b)) return place;
    }
  }
}

/** At the first blank, as in files of merges. */
export function split(merge: Merge): [string, string] {
  if (typeof merge !== "string") return merge;
  const [first, second] = merge.split(" ", 2);
  return [first, second];
}
