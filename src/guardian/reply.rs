//! Writing a reply: which sequence opens it, how tokens are picked, when it ends.

use crate::engine::Sampling;

/// How a reply is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplyOptions {
    /// Put `<|harm|>` after `<|expl|>`: a safeguard reply whatever the verdict.
    pub force: bool,
    /// The reply ends after this many tokens at the latest.
    pub max_tokens: usize,
    pub sampling: Sampling,
}

impl Default for ReplyOptions {
    fn default() -> Self {
        ReplyOptions { force: false, max_tokens: 160, sampling: Sampling::Greedy }
    }
}

/// Whether `piece` begins a word that would make the last six words of `text` a run that stands in it already. A small model
/// falls into its own sentences again; the next likeliest word leads out of them.
pub fn repeats(text: &str, piece: &str) -> bool {
    const RUN: usize = 6;
    let word = piece.trim_start().to_lowercase();
    if word.is_empty() || !piece.starts_with(char::is_whitespace) {
        return false;
    }
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some(last) = words.len().checked_sub(RUN - 1).map(|at| &words[at..]) else { return false };
    words.windows(RUN).any(|run| run[..RUN - 1] == *last && run[RUN - 1].starts_with(&word))
}

/// Whether the last tokens repeat a run of at least `LOOP_TOKENS` tokens three times over: a greedy loop, which a
/// person should not have to read to the token limit.
pub fn loops(ids: &[u32]) -> bool {
    const LOOP_TOKENS: usize = 4;
    (LOOP_TOKENS..=ids.len() / 3).any(|length| {
        let tail = &ids[ids.len() - 3 * length..];
        tail[..length] == tail[length..2 * length] && tail[..length] == tail[2 * length..]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_words_are_not_begun_a_second_time() {
        let text = "If you're the one holding it, tell someone. If you're the one holding";
        assert!(repeats(text, " it"));
        assert!(repeats(&text.to_uppercase(), " IT,"));
        // Another word, a part of a word, a run of five, and nothing at all.
        assert!(!repeats(text, " them"));
        assert!(!repeats(text, "it"));
        assert!(!repeats("the one holding it, tell someone. No, the one holding", " it"));
        assert!(!repeats("", " If"));
        assert!(!repeats(text, " "));
    }

    #[test]
    fn a_run_said_three_times_is_a_loop_and_twice_is_not() {
        let run = [5, 6, 7, 8];
        let twice: Vec<u32> = [1, 2].into_iter().chain(run).chain(run).collect();
        assert!(!loops(&twice));
        let thrice: Vec<u32> = twice.iter().copied().chain(run).collect();
        assert!(loops(&thrice));
        assert!(!loops(&[]));
    }
}
