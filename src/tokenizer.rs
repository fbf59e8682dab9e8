//! Byte-level BPE from GGUF metadata, on the `tokenizers` crate.
//!
//! Control tokens (`tokenizer.ggml.token_type` 3) are kept out of the encoder altogether and are looked up by name:
//! whatever a person types stays text, `<|im_end|>` and `<|safe|>` too.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, as_unsigned};

/// `token_type` values of GGUF.
const CONTROL: usize = 3;

/// Text to token ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes each token stands for; empty for control tokens.
    bytes: Vec<Vec<u8>>,
    control: HashMap<String, u32>,
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file whose model is `gpt2` (byte-level BPE) with the `smollm` pre-tokenizer:
    /// digits one by one, then the GPT-2 pattern, no space added in front.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let supported = [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")];
        for (key, want) in supported {
            let found = gguf.string(key)?;
            if found != want {
                return Err(Error::unsupported(format!("key {key:?}"), format!("{found:?}, want {want:?}")));
            }
        }
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let merges = gguf.strings("tokenizer.ggml.merges")?;
        let types = gguf.array("tokenizer.ggml.token_type")?;
        let key = |name: &str| format!("key \"tokenizer.ggml.{name}\"");
        if types.len() != tokens.len() {
            return Err(Error::format(
                key("token_type"),
                format!("{} entries for {} tokens", types.len(), tokens.len()),
            ));
        }

        let unicode_to_byte: HashMap<char, u8> = byte_alphabet().into_iter().zip(0..=255).collect();
        let mut vocab = tokenizers::models::bpe::Vocab::default();
        let mut control = HashMap::new();
        let mut bytes = Vec::with_capacity(tokens.len());
        for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
            let is_control = as_unsigned(kind) == Some(CONTROL);
            if is_control {
                bytes.push(Vec::new());
                control.insert((*token).to_owned(), id as u32);
                continue;
            }
            let spelled: Option<Vec<u8>> = token.chars().map(|c| unicode_to_byte.get(&c).copied()).collect();
            let spelled = spelled.ok_or_else(|| {
                Error::format(key("tokens"), format!("token {id} ({token:?}) is not spelled in the byte alphabet"))
            })?;
            bytes.push(spelled);
            if vocab.insert((*token).to_owned(), id as u32).is_some() {
                return Err(Error::format(key("tokens"), format!("{token:?} is there twice")));
            }
        }
        let mut pairs = Vec::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = merge
                .split_once(' ')
                .filter(|(left, right)| {
                    vocab.contains_key(*left)
                        && vocab.contains_key(*right)
                        && vocab.contains_key(format!("{left}{right}").as_str())
                })
                .ok_or_else(|| {
                    Error::format(key("merges"), format!("merge {rank} ({merge:?}) names tokens that are not there"))
                })?;
            pairs.push((left.to_owned(), right.to_owned()));
        }
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, pairs)
            .build()
            .map_err(|error| Error::format(key("merges"), error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ]))));
        Ok(Tokenizer { inner, bytes, control })
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.bytes.len()
    }

    /// The id of a control token, by name.
    pub fn control(&self, name: &str) -> Result<u32> {
        self.control
            .get(name)
            .copied()
            .ok_or_else(|| Error::unsupported(format!("control token {name:?}"), "this model was not trained with it"))
    }

    /// The ids of `text`; never a control token. Text that the vocabulary can't spell is an error, not a gap.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(Error::internal)?;
        let ids = encoding.get_ids();
        let spelled: usize = ids.iter().map(|&id| self.bytes[id as usize].len()).sum();
        if spelled != text.len() {
            return Err(Error::input("the text holds a character that the model's vocabulary can't spell; remove it"));
        }
        Ok(ids.to_vec())
    }

    /// The bytes a token stands for; a control token stands for none.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards, in order.
fn byte_alphabet() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100u32;
    (0..=255u8)
        .map(|byte| {
            if printable(byte) {
                return char::from(byte);
            }
            next += 1;
            char::from_u32(next - 1).expect("below the surrogates")
        })
        .collect()
}

/// Joins token bytes into text as they come: a character cut by a token's end waits for its other bytes.
#[derive(Default)]
pub struct TextStream {
    pending: Vec<u8>,
}

impl TextStream {
    /// Adds a token's bytes; the text that is complete by now, perhaps empty.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    self.pending.drain(..valid);
                    let Some(broken) = error.error_len() else { return text };
                    text.push('\u{FFFD}');
                    self.pending.drain(..broken);
                }
            }
        }
    }

    /// What is left at the end: a character never completed is U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_a_tokens_end_waits_for_its_other_bytes() {
        let mut stream = TextStream::default();
        let smile = "🙂".as_bytes();
        assert_eq!(stream.push(&smile[..2]), "");
        assert_eq!(stream.push(&smile[2..]), "🙂");
        assert_eq!(stream.push(&[b'a', 0xFF, b'b', 0xC3]), "a\u{FFFD}b");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }
}
