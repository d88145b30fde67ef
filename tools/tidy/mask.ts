/**
 * Tells code from comments and strings, so that rules about code do not trip over prose. Not a
 * parser: it knows comments, strings, templates and regular expressions, and nothing else.
 */

/** A source text with what is not code blanked out; offsets and line numbers stay. */
export interface MaskedSource {
  /** Without comments. */
  readonly code: string;
  /** Without comments and without what strings, templates and regular expressions hold. */
  readonly bare: string;
}

const comment = /\/\/[^\n]*|\/\*[\s\S]*?\*\//y;
const quoted = /"(?:[^"\\\n]|\\[\s\S])*"|'(?:[^'\\\n]|\\[\s\S])*'/y;
const templateChunk = /(?:[^`\\$]|\\[\s\S]|\$(?!\{))*(?:`|\$\{)/y;
const regexLiteral = /\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y;
const word = /[\w$#]+/y;
const regexMayFollowWord = new Set(["return", "typeof", "case", "in", "of", "do", "else", "await"]);

/** Blanks comments (in both) and literals (in `bare`) of a TypeScript text. */
export function maskSource(text: string): MaskedSource {
  const mask = new Masker(text);
  while (!mask.atEnd) mask.step();
  return { code: mask.code, bare: mask.bare };
}

class Masker {
  code = "";
  bare = "";
  readonly #text: string;
  #at = 0;
  /** Open braces inside each `${` that is open, innermost last. */
  readonly #templateDepths: number[] = [];
  /** The last word or character of code; decides whether a slash divides. */
  #last = "";

  constructor(text: string) {
    this.#text = text;
  }

  get atEnd(): boolean {
    return this.#at >= this.#text.length;
  }

  step(): void {
    const found = this.#match(comment);
    if (found !== undefined) return this.#emit(found, blank(found), blank(found));
    const literal = this.#match(quoted);
    if (literal !== undefined) return this.#emitLiteral(literal);
    const name = this.#match(word);
    if (name !== undefined) return this.#emitCode(name);
    const char = this.#text[this.#at] ?? "";
    if (char === "/" && this.#regexMayStart()) {
      const regex = this.#match(regexLiteral);
      if (regex !== undefined) return this.#emitLiteral(regex);
    }
    if (char === "`") return this.#openTemplate();
    if (char === "{" || char === "}") return this.#brace(char);
    this.#emitCode(char);
  }

  #openTemplate(): void {
    this.#emitCode("`");
    this.#template();
  }

  #template(): void {
    const chunk = this.#match(templateChunk);
    if (chunk === undefined) return;
    const isOpen = chunk.endsWith("${");
    const end = isOpen ? "${" : "`";
    this.#emit(chunk, chunk, blank(chunk.slice(0, -end.length)) + end);
    this.#last = isOpen ? "{" : ")";
    if (isOpen) this.#templateDepths.push(0);
  }

  #brace(char: "{" | "}"): void {
    const open = this.#templateDepths.length - 1;
    const depth = this.#templateDepths[open];
    this.#emitCode(char);
    if (depth === undefined) return;
    if (char === "{") this.#templateDepths[open] = depth + 1;
    else if (depth > 0) this.#templateDepths[open] = depth - 1;
    else {
      this.#templateDepths.pop();
      this.#template();
    }
  }

  #regexMayStart(): boolean {
    const isOperator = "(,=:[!&|?{};+-*%<>~^".includes(this.#last);
    return isOperator || regexMayFollowWord.has(this.#last);
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text)?.[0];
  }

  #emitCode(part: string): void {
    this.#emit(part, part, part);
    if (part.trim() !== "") this.#last = part;
  }

  /** Keeps the first and the last character in `bare`, so that calls keep their shape. */
  #emitLiteral(part: string): void {
    this.#emit(part, part, part.slice(0, 1) + blank(part.slice(1, -1)) + part.slice(-1));
    this.#last = ")";
  }

  #emit(part: string, code: string, bare: string): void {
    this.code += code;
    this.bare += bare;
    this.#at += part.length;
  }
}

function blank(text: string): string {
  return text.replace(/[^\n]/g, " ");
}
