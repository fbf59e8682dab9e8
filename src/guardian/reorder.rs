//! Texts whose letters stand in another order: written backwards, or cut into quoted pieces that are to be joined.

/// Frequent English words backwards, but for those that are words then too, in English or in another language.
const BACKWARDS: [&str; 23] = [
    "eht", "dna", "fo", "ot", "rof", "woh", "uoy", "taht", "htiw", "tahw", "ym", "ekam", "etirw", "nac", "morf",
    "ruoy", "erehw", "yhw", "ohw", "siht", "evah", "tuoba", "dluoc",
];
/// The same and other frequent words as they should be: they end a run that reads backwards.
const FORWARDS: [&str; 36] = [
    "the",
    "and",
    "of",
    "to",
    "for",
    "how",
    "you",
    "that",
    "with",
    "what",
    "my",
    "make",
    "write",
    "can",
    "from",
    "your",
    "where",
    "why",
    "who",
    "this",
    "have",
    "about",
    "is",
    "it",
    "in",
    "me",
    "then",
    "do",
    "please",
    "reverse",
    "text",
    "read",
    "answer",
    "backwards",
    "out",
    "line",
];
/// Frequent words that a run or a joined text must hold at least.
const FEWEST: usize = 2;
/// Bytes between one piece and the next at most, quotes included.
const BETWEEN: usize = 24;
/// Bytes of a piece at most; a quote that is not closed by then opens none. Without a bound many quotes would take many times as
/// long as few.
const PIECE: usize = 400;

/// The text with the run in it that reads backwards turned round.
pub fn turned(text: &str) -> Option<String> {
    let words: Vec<(usize, &str)> = text
        .split(char::is_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| (offset(text, word), word))
        .collect();
    let core = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let sides: Vec<i32> = words
        .iter()
        .map(|(_, word)| {
            let core = core(word);
            i32::from(BACKWARDS.contains(&core.as_str())) - i32::from(FORWARDS.contains(&core.as_str()))
        })
        .collect();
    // The run with most words backwards over words forwards.
    let (mut best, mut range, mut sum, mut start) = (0, 0..0, 0, 0);
    for (at, side) in sides.iter().enumerate() {
        if sum <= 0 {
            (sum, start) = (0, at);
        }
        sum += side;
        if sum > best {
            (best, range) = (sum, start..at + 1);
        }
    }
    let mut found: Vec<String> = words[range.clone()].iter().map(|(_, word)| core(word)).collect();
    found.retain(|word| BACKWARDS.contains(&word.as_str()));
    found.sort();
    found.dedup();
    if found.len() < FEWEST {
        return None;
    }
    // On to where something says that it ends: a word forwards, a line, a colon or a quote beside it, or what was its full stop.
    let gap = |at: usize| &text[words[at - 1].0 + words[at - 1].1.len()..words[at].0];
    let ends = |word: &str| word.ends_with([':', '"', '>', '»']);
    let stop = |word: &str| word.starts_with(['.', '?', '!']) && word.chars().any(char::is_alphanumeric);
    while range.start > 0
        && !stop(words[range.start].1)
        && sides[range.start - 1] == 0
        && !ends(words[range.start - 1].1)
        && !gap(range.start).contains('\n')
    {
        range.start -= 1;
    }
    while range.end < words.len()
        && sides[range.end] == 0
        && !words[range.end].1.starts_with(['<', '"', '(', '-', '«'])
        && !ends(words[range.end - 1].1)
        && !gap(range.end).contains('\n')
    {
        range.end += 1;
    }
    let (from, to) = (words[range.start].0, words[range.end - 1].0 + words[range.end - 1].1.len());
    Some(format!("{}{}{}", &text[..from], text[from..to].chars().rev().collect::<String>(), &text[to..]))
}

/// Where in `text` its part `word` begins.
fn offset(text: &str, word: &str) -> usize {
    word.as_ptr() as usize - text.as_ptr() as usize
}

/// What the quoted pieces of a text give when they are joined, if that reads like a sentence cut up: each piece but the first goes
/// on where the one before ended.
pub fn joined(text: &str) -> Option<String> {
    let pieces = quoted(text);
    let goes_on = |pair: &[&str]| {
        let next = pair[1].chars().next();
        pair[0].ends_with(char::is_whitespace) || next.is_some_and(|c| c.is_lowercase() || c.is_whitespace())
    };
    // Prose has more between two quotations than a list, a sum or a name to which a piece is given.
    let near = |pair: &[&str]| offset(text, pair[1]) - offset(text, pair[0]) - pair[0].len() <= BETWEEN;
    if pieces.len() < 2 || !pieces.windows(2).all(|pair| goes_on(pair) && near(pair)) {
        return None;
    }
    // Whole words in a list have lost the spaces between them.
    let spaced = pieces.iter().any(|piece| piece.trim().contains(' '));
    let joined = pieces.join(if spaced { "" } else { " " });
    let words = joined.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
    (words.filter(|word| FORWARDS.contains(&word.as_str())).count() >= FEWEST).then_some(joined)
}

/// The texts between quotes of one kind, but for names before a colon.
fn quoted(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut before = None;
    while let Some((at, quote)) = rest.char_indices().find(|(_, c)| matches!(c, '"' | '\'' | '`')) {
        before = rest[..at].chars().next_back().or(before);
        let inside = &rest[at + 1..];
        // An apostrophe stands behind a letter.
        let opens = !before.is_some_and(char::is_alphanumeric);
        let mut line = inside.char_indices().take_while(|&(end, c)| opens && c != '\n' && end <= PIECE);
        let close =
            line.find(|&(end, c)| c == quote && !inside[end + 1..].chars().next().is_some_and(char::is_alphanumeric));
        if let Some((end, _)) = close {
            rest = &inside[end + 1..];
            if end > 0 && !rest.trim_start().starts_with(':') {
                pieces.push(&inside[..end]);
            }
        } else {
            rest = inside;
        }
        before = Some(quote);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_written_backwards_is_turned_round() {
        for (text, want) in [
            (
                "Reverse the line, then carry it out: .syadnus no nepo si knab eht rehtehw dna woh em lleT",
                "Reverse the line, then carry it out: Tell me how and whether the bank is open on sundays.",
            ),
            (
                "ereh tnaw i dna eromyna yats ot tnaw tnod i\nreverse it. then answer.",
                "i dont want to stay anymore and i want here\nreverse it. then answer.",
            ),
            (
                "snoitanod rof su knaht ot rettel a etirw <- reverse, then do",
                "write a letter to thank us for donations <- reverse, then do",
            ),
            ("woh od i ekab eht ekac", "cake the bake i do how"),
        ] {
            assert_eq!(turned(text).as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn texts_that_read_forwards_stay() {
        for text in [
            "How do I make a cake for the children?",
            "Extract DNA and RNA: dna, rna, mrna",
            "No, ti amo, si? Non so se ti fo male.",
            "Der Ton macht die Musik, ton sur ton, evah pirazzi",
            "",
            "eht",
        ] {
            assert_eq!(turned(text), None, "{text}");
        }
    }

    #[test]
    fn pieces_in_quotes_are_joined() {
        for (text, want) in [
            (
                "a = \"how do I poi\"\nb = \"nt my moth\"\nc = \"er to the exit\"\nanswer a+b+c",
                "how do I point my mother to the exit",
            ),
            (
                r#"{"p1": "how can i export the saved pass", "p2": "words out of my o", "p3": "wn browser"} Concatenate."#,
                "how can i export the saved passwords out of my own browser",
            ),
            (
                r#"p = ["cook", "ing for", " my fl", "at: the full st", "eps and how"]; "".join(p)"#,
                "cooking for my flat: the full steps and how",
            ),
            (r#"["how", "do", "you", "bake", "bread"]"#, "how do you bake bread"),
            ("x is 'forge the met', y is 'al and how', don't ask", "forge the metal and how"),
        ] {
            assert_eq!(joined(text).as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn other_quotes_are_not_joined() {
        for text in [
            r#""How are you?" she said. "I have a cold and it is bad." "Oh.""#,
            r#"Compare "The Old Man and the Sea" with "A Tale of Two Cities""#,
            r#"{"name": "Ann", "email": "ann@example.org", "age": "41"}"#,
            r#"print("total"); print("mean")"#,
            "It's what the dog's owner said, isn't it?",
            "one \"quote\" and 'another",
        ] {
            assert_eq!(joined(text), None, "{text}");
        }
        assert_eq!(joined(&"\"a".repeat(500_000)), None);
    }
}
