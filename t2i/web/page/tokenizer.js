// Captions to token ids, as the two tokenizers of t2i do it: BERT's WordPiece (Devlin et al. 2019), which MiniLM has,
// and the byte pairs (Sennrich et al. 2016) of an encoder that was trained with its generator.
// Both read tokenizer.json of the library `tokenizers`.

const SPACE = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u; // Unicode's; \s has U+FEFF, too
const BLANK = new RegExp(`[\x1c-\x1f${SPACE.source.slice(1)}`, "u"); // what Python's str.split takes for space
const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\ufffd]/gu;
const HAN = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/gu; // all signs of ASCII, those of money and sums too

/** The prompt with single spaces, as the pipeline reads it; "" where there is nothing in it. */
export function clean(prompt) {
  return prompt.replace(/[\ud800-\udfff]/gu, "?").split(BLANK).filter(Boolean).join(" ");
}

/** tokenizer.json -> a function from a prompt to {ids, cut}; cut: whether it was longer than the encoder reads. */
export function readTokenizer(description) {
  const limit = description.truncation.max_length;
  return description.model.type === "WordPiece" ? wordPiece(description, limit) : bytePairs(description, limit);
}

/** Lower case character by character: a sigma at the end of a word is no other letter. */
function lowerCase(text) {
  return Array.from(text, (character) => character.toLowerCase()).join("");
}

/** Words, and every punctuation mark as one. */
function words(text) {
  return text.replace(PUNCTUATION, " $& ").split(SPACE).filter(Boolean);
}

function wordPiece(description, limit) {
  const { vocab, unk_token: unknown, max_input_chars_per_word: longest } = description.model;
  const ids = new Map(Object.entries(vocab));
  const special = new Map(description.added_tokens.map((token) => [token.content, token.id]));
  const escaped = [...special.keys()].map((text) => text.replace(/[[\]\\^$.*+?(){}|]/g, "\\$&"));
  const splitter = new RegExp(`(${escaped.join("|")})`);

  function normalise(text) {
    text = text.replace(/[\t\n\r]/g, " ").replace(CONTROL, "").replace(HAN, " $& ");
    return lowerCase(text.normalize("NFD").replace(/\p{Mn}/gu, ""));
  }

  function pieces(word) {
    const characters = Array.from(word);
    if (characters.length > longest) return [ids.get(unknown)];
    const found = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let id;
      for (; end > start; end--) {
        id = ids.get((start ? "##" : "") + characters.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return [ids.get(unknown)];
      found.push(id);
      start = end;
    }
    return found;
  }

  return (prompt) => {
    // A special token that is written in a prompt is that token.
    const parts = prompt.split(splitter).filter(Boolean);
    const found = parts.flatMap((part) => special.get(part) ?? words(normalise(part)).flatMap(pieces));
    const kept = found.slice(0, limit - 2);
    return { ids: [ids.get("[CLS]"), ...kept, ids.get("[SEP]")], cut: kept.length < found.length };
  };
}

function bytePairs(description, limit) {
  const { vocab, merges } = description.model;
  const ids = new Map(Object.entries(vocab));
  const ranks = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
  const letters = byteLetters();
  const encoder = new TextEncoder();

  function pieces(word) {
    let parts = Array.from(encoder.encode(` ${word}`), (byte) => letters[byte]);
    for (;;) {
      let best = Infinity;
      let place = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) return parts.map((part) => ids.get(part));
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
  }

  return (prompt) => {
    const found = words(lowerCase(prompt.normalize("NFKC"))).flatMap(pieces);
    const kept = found.slice(0, limit);
    return { ids: kept.length ? kept : [ids.get("[UNK]")], cut: kept.length < found.length };
  };
}

/** The letter that stands for each byte (Radford et al. 2019): itself where it can be seen, else one from U+0100 on. */
function byteLetters() {
  let hidden = 0;
  return Array.from({ length: 256 }, (_, byte) => {
    const seen = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 255 && byte !== 173);
    return String.fromCharCode(seen ? byte : 256 + hidden++);
  });
}
