//! Windows over a long query: cost grows linearly with length, and nothing is cut.

use std::ops::Range;

/// Query tokens in one window.
pub const WINDOW: usize = 512;
/// Tokens that neighbouring windows share, so that a request cut by one window's end is whole in the next.
const OVERLAP: usize = 96;

/// The windows over `tokens` query tokens, in order; together they cover every token. A text of one window gives one.
pub fn windows(tokens: usize) -> Vec<Range<usize>> {
    let mut windows = Vec::new();
    let mut start = 0;
    loop {
        let end = (start + WINDOW).min(tokens);
        windows.push(start..end);
        if end == tokens {
            return windows;
        }
        start = end - OVERLAP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_token_and_overlap() {
        for tokens in [1, 511, 512, 513, 928, 929, 5000] {
            let windows = windows(tokens);
            assert_eq!((windows[0].start, windows.last().unwrap().end), (0, tokens));
            assert!(windows.iter().all(|w| w.len() <= WINDOW && !w.is_empty()));
            assert!(windows.windows(2).all(|pair| pair[1].start + OVERLAP == pair[0].end), "{tokens}: {windows:?}");
            assert!(windows.len() <= 1 + tokens.saturating_sub(OVERLAP) / (WINDOW - OVERLAP));
        }
    }
}
