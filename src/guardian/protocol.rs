//! Token sequences: the control tokens by name, the chat template, the task suffixes.
//!
//! ```text
//! prefix  =  <|im_start|>user\n {query} <|im_end|>\n <|im_start|>assistant\n
//! detect  =  prefix <|pred|>                 the next token is <|safe|> or <|unsafe|>
//! name    =  prefix <|pred|> <|unsafe|>      the next token opens a category's name
//! reply   =  prefix <|expl|>                 forced: prefix <|expl|> <|harm|>
//! ```

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;

/// Who said a turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
    System,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    /// A turn of the person whose text is screened.
    pub fn user(content: impl Into<String>) -> Self {
        Message { role: Role::User, content: content.into() }
    }
}

/// The ids that sequences are made of, looked up once.
pub struct Protocol {
    im_start: u32,
    pub im_end: u32,
    pub pred: u32,
    pub expl: u32,
    pub safe: u32,
    pub unsafe_: u32,
    pub harm: u32,
    /// From the first to the last of the five: a reply never holds them. A model may like `<|safe|>` where a text has
    /// the word "safe".
    pub own_ids: Range<u32>,
    newline: Vec<u32>,
    user: Vec<u32>,
    assistant: Vec<u32>,
    system: Vec<u32>,
    /// Category names, in the order of `category_ids`.
    pub categories: Vec<String>,
    /// The first token of each category's name; all different.
    pub category_ids: Vec<u32>,
}

impl Protocol {
    pub fn new(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Self> {
        let categories: Vec<String> = gguf.strings("guardian.categories")?.into_iter().map(str::to_owned).collect();
        let mut category_ids = Vec::with_capacity(categories.len());
        for name in &categories {
            let place = "key \"guardian.categories\"";
            let id = *tokenizer.encode(name)?.first().ok_or_else(|| Error::format(place, "holds an empty name"))?;
            if category_ids.contains(&id) {
                return Err(Error::format(place, format!("{name:?} opens with the same token as another name")));
            }
            category_ids.push(id);
        }
        if categories.is_empty() {
            return Err(Error::format("key \"guardian.categories\"", "is empty"));
        }
        let (pred, expl) = (tokenizer.control("<|pred|>")?, tokenizer.control("<|expl|>")?);
        let (safe, unsafe_) = (tokenizer.control("<|safe|>")?, tokenizer.control("<|unsafe|>")?);
        let harm = tokenizer.control("<|harm|>")?;
        let mut ids = [pred, expl, safe, unsafe_, harm];
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[1] != pair[0] + 1) {
            return Err(Error::format("key \"tokenizer.ggml.tokens\"", "the guardian's five tokens are not in a row"));
        }
        Ok(Protocol {
            own_ids: ids[0]..ids[4] + 1,
            im_start: tokenizer.control("<|im_start|>")?,
            im_end: tokenizer.control("<|im_end|>")?,
            pred,
            expl,
            safe,
            unsafe_,
            harm,
            newline: tokenizer.encode("\n")?,
            user: tokenizer.encode("user\n")?,
            assistant: tokenizer.encode("assistant\n")?,
            system: tokenizer.encode("system\n")?,
            categories,
            category_ids,
        })
    }

    /// One whole turn: header, content, end.
    pub fn turn(&self, role: Role, content: &[u32]) -> Vec<u32> {
        let header = match role {
            Role::User => &self.user,
            Role::Assistant => &self.assistant,
            Role::System => &self.system,
        };
        let mut ids = vec![self.im_start];
        ids.extend_from_slice(header);
        ids.extend_from_slice(content);
        ids.push(self.im_end);
        ids.extend_from_slice(&self.newline);
        ids
    }

    /// Everything before the task token: `earlier` whole turns, the query's turn, the assistant's header.
    pub fn prefix(&self, earlier: &[u32], query: &[u32]) -> Vec<u32> {
        let mut ids = earlier.to_vec();
        ids.extend(self.turn(Role::User, query));
        ids.push(self.im_start);
        ids.extend_from_slice(&self.assistant);
        ids
    }
}
