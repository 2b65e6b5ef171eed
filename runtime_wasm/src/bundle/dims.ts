/** Dimension expressions such as `2*sequence + 1`: whole numbers, names, `+ - * //`, parentheses. */

const MAX_LENGTH = 128;
const TOKEN = / *(?:([0-9]+)|([A-Za-z_][A-Za-z0-9_.]*)|(\/\/|[-+*()]))/y;

export type Dimension = number | string;
export type Dims = Readonly<Record<string, number>>;

/** The value of a dimension; throws `RangeError` on bad syntax, an unknown name or division by zero. */
export function evaluate(dimension: Dimension, values: Dims): number {
  if (typeof dimension === "number") return dimension;
  if (dimension.length > MAX_LENGTH) throw new RangeError(`is longer than ${MAX_LENGTH} characters`);
  return new Parser(tokenize(dimension), values).parse();
}

function tokenize(text: string): string[] {
  const trimmed = text.replace(/ +$/, "");
  const tokens: string[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < trimmed.length) {
    const at = TOKEN.lastIndex;
    const match = TOKEN.exec(trimmed);
    if (!match) throw new RangeError(`has an unexpected character at ${at}`);
    tokens.push((match[1] ?? match[2] ?? match[3]) as string);
  }
  return tokens;
}

class Parser {
  private next = 0;

  constructor(
    private readonly tokens: readonly string[],
    private readonly values: Dims,
  ) {}

  parse(): number {
    const result = this.sum();
    if (this.next < this.tokens.length) throw new RangeError(`has an unexpected \`${this.tokens[this.next]}\``);
    return result;
  }

  private take(): string {
    if (this.next === this.tokens.length) throw new RangeError("ends too early");
    return this.tokens[this.next++];
  }

  private accept(...operators: string[]): string | undefined {
    return operators.includes(this.tokens[this.next]) ? this.tokens[this.next++] : undefined;
  }

  private sum(): number {
    let result = this.product();
    for (let operator = this.accept("+", "-"); operator; operator = this.accept("+", "-")) {
      const right = this.product();
      result = checked(operator === "+" ? result + right : result - right);
    }
    return result;
  }

  private product(): number {
    let result = this.atom();
    for (let operator = this.accept("*", "//"); operator; operator = this.accept("*", "//")) {
      const right = this.atom();
      result = operator === "*" ? checked(result * right) : floorDivide(result, right);
    }
    return result;
  }

  private atom(): number {
    const token = this.take();
    if (/^[0-9]/.test(token)) return checked(Number(token));
    if (token === "(") {
      const result = this.sum();
      if (this.take() !== ")") throw new RangeError("lacks a `)`");
      return result;
    }
    if (!/^[A-Za-z_]/.test(token)) throw new RangeError(`has an unexpected \`${token}\``);
    if (!Object.hasOwn(this.values, token)) throw new RangeError(`uses the unknown dimension \`${token}\``);
    return this.values[token];
  }
}

/** Exact for safe integers: `Math.floor(a / b)` alone may round up next to a multiple. */
function floorDivide(a: number, b: number): number {
  if (b === 0) throw new RangeError("divides by zero");
  const remainder = a % b;
  const quotient = (a - remainder) / b;
  return remainder !== 0 && remainder < 0 !== b < 0 ? quotient - 1 : quotient;
}

function checked(value: number): number {
  if (!Number.isSafeInteger(value)) throw new RangeError("leaves the range of whole numbers");
  return value;
}
