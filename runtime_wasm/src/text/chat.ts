/** The model's own chat template. Text inside messages never becomes a control token, see docs/runtime-abi.md, "Text". */

import { Template } from "@huggingface/jinja";
import { EdgecError } from "../errors.js";
import { GUARD, matcher } from "./tokenizer.js";

export interface ChatMessage {
  role: string;
  content?: unknown;
  [field: string]: unknown;
}

export interface RenderOptions {
  specialTokens: Readonly<Record<string, string>>;
  controlTokens: Iterable<string>;
  tools?: readonly unknown[] | null;
}

export class ChatTemplate {
  private readonly template: Template;

  constructor(source: string) {
    try {
      this.template = new Template(source);
    } catch (cause) {
      throw new EdgecError("template", `the chat template is not valid: ${(cause as Error).message}`, { cause });
    }
  }

  /** The prompt's text, with `GUARD` inside every control token that comes from a message. */
  render(messages: readonly ChatMessage[], { specialTokens, controlTokens, tools }: RenderOptions): string {
    if (!Array.isArray(messages) || messages.length === 0)
      throw new EdgecError("invalid-argument", "the chat has no messages");
    const guard = new Guard([...controlTokens]);
    const guardedMessages = messages.map((message) => {
      if (typeof message !== "object" || message === null || typeof message.role !== "string") {
        throw new EdgecError("invalid-argument", "a chat message has no `role`", {
          hint: 'a message is {role: "user", content: "..."}',
        });
      }
      return Object.fromEntries(
        Object.entries(message).map(([name, value]) => [name, name === "role" ? value : guard.value(value)]),
      );
    });
    try {
      return this.template.render({
        ...specialTokens,
        messages: guardedMessages,
        add_generation_prompt: true,
        tools: tools ?? null,
        documents: null,
      });
    } catch (cause) {
      throw new EdgecError("template", `the chat template refuses these messages: ${(cause as Error).message}`, {
        cause,
      });
    }
  }
}

/** Puts `GUARD` into control tokens, and after what may become one when a template appends another text to it. */
class Guard {
  private readonly pattern: RegExp;
  private readonly beginnings = new Set<string>();
  private readonly longest: number;

  constructor(controlTokens: readonly string[]) {
    this.pattern = matcher(controlTokens);
    for (const token of controlTokens)
      for (let length = 1; length < token.length; length++) this.beginnings.add(token.slice(0, length));
    this.longest = Math.max(0, ...controlTokens.map((token) => token.length - 1));
  }

  value(value: unknown): unknown {
    if (typeof value === "string") return this.text(value.replaceAll(GUARD, ""));
    if (Array.isArray(value)) return value.map((item) => this.value(item));
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, this.value(item)]));
    }
    return value;
  }

  private text(value: string): string {
    const text = value.replace(this.pattern, (token) => {
      const first = String.fromCodePoint(token.codePointAt(0)!);
      return first + GUARD + token.slice(first.length);
    });
    for (let length = 1; length <= Math.min(this.longest, text.length); length++) {
      if (this.beginnings.has(text.slice(-length))) return text + GUARD;
    }
    return text;
  }
}
