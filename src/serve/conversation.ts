import type { Tokenizer } from '../engine/index.ts';
import type { ChatMessage, ChatTemplate, RenderOptions } from './chat-template.ts';

/** Stands in the middle of special tokens that a message spells out. Unicode says that no text has it. */
const mark = '\uFDD0';

/**
 * Token ids of a conversation. The template writes special tokens as text, the begin token among them, so that those are read as tokens and none is added. What
 * a message spells out stays text: nobody ends a turn, or begins another's, by writing `<|im_end|>`.
 *
 * @throws {ChatTemplateError} when the template refuses the messages.
 */
export function encodeConversation(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: RenderOptions,
): readonly number[] {
  const special = specialPattern(tokenizer);
  const forged =
    special !== undefined && messages.some(({ content, name = '' }) => content.search(special) >= 0 || name.search(special) >= 0);
  if (!forged) return tokenizer.encode(template.render(messages, options), { addBos: false, parseSpecial: true });
  const marked = (text: string) => text.replaceAll(special, (token) => token[0] + mark + token.slice(1));
  const safe = messages.map((message) => ({
    ...message,
    content: marked(message.content),
    ...(message.name && { name: marked(message.name) }),
  }));
  // Tokenizers cut texts at special tokens anyway: here it is done in front of them, so that what lies between is only ever text.
  const ids: number[] = [];
  for (const piece of template.render(safe, options).split(special)) {
    const id = tokenizer.specialTokens.includes(piece) ? tokenizer.idOf(piece) : undefined;
    if (id !== undefined) ids.push(id);
    else ids.push(...tokenizer.encode(piece.replaceAll(mark, ''), { addBos: false }));
  }
  return ids;
}

/** Any special token, the longest where several begin alike; splitting by it keeps the tokens. */
function specialPattern({ specialTokens }: Tokenizer): RegExp | undefined {
  if (specialTokens.length === 0) return undefined;
  const longestFirst = specialTokens.filter(Boolean).toSorted((a, b) => b.length - a.length);
  return new RegExp(`(${longestFirst.map((token) => token.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|')})`, 'g');
}
