//! Readings of a text: what a reader sees of it, its disguises undone, and its encoded runs decoded. An attacker hides words
//! from the model by spelling them differently; each trick undone is a reading, and the highest score counts.

use base64::Engine as _;
use unicode_normalization::UnicodeNormalization;

use super::reorder::{joined, turned};

/// Words in leetspeak or with dots between their letters from which on it is how the text is written, and no name like "Log4Shell".
const DISGUISED_WORDS: usize = 2;
/// Capitals from which on a text can be all in capitals: fewer are an abbreviation.
const SHOUTED: usize = 12;
/// Characters an encoded run must decode to before it counts as text.
const MIN_DECODED: usize = 12;

/// One way to read a text.
#[derive(Debug, PartialEq)]
pub struct Reading {
    /// What made it: `normalized`, `base64`, ...; nothing for the text as typed, but for its typography.
    pub sources: Vec<&'static str>,
    pub text: String,
}

/// The text with whatever hides its words undone, then every guess at it that differs.
///
/// What is typed is not read beside what is seen (look-alike letters, invisible characters, full-width forms, capitals throughout,
/// leetspeak or dots in several words, encoded runs that decode to text, sentences backwards): it says nothing more, and the model
/// takes odd bytes themselves for harm. Guesses (leetspeak or dots in one word, letters written apart, a "1" as "l", rot13, quoted
/// pieces joined) are read beside it.
pub fn readings(text: &str) -> Vec<Reading> {
    let mut sources = Vec::new();
    let mut seen = text.to_owned();
    for (source, undo) in UNDO {
        let Some(plain) = undo(&seen) else { continue };
        let plain = plain.trim();
        if plain.is_empty() || plain == seen {
            continue;
        }
        if source != "normalized" || disguised(&seen, plain) {
            sources.push(source);
        }
        seen = plain.to_owned();
    }
    let undone =
        |one: char, wide: bool| seen.split(' ').map(move |word| undot(&fold_leet(word, one, wide))).collect::<Vec<_>>();
    let changed = seen.split(' ').zip(undone('i', false)).filter(|(word, undone)| word != undone).count();
    let throughout = changed >= DISGUISED_WORDS;
    let guesses = ['i', 'l'].map(|one| ("normalized", Some(rejoin(&undone(one, throughout)))));
    let rot13 = ("rot13", rot13_text(&seen));
    let with = |source| sources.iter().copied().chain((!sources.contains(&source)).then_some(source)).collect();
    let mut readings = match throughout {
        true => vec![Reading { sources: with("normalized"), text: undone('i', true).join(" ") }],
        false => vec![Reading { sources: sources.clone(), text: seen.clone() }],
    };
    let joined = ("joined", joined(&seen));
    for (source, guess) in guesses.into_iter().chain([rot13, joined]) {
        let Some(guess) = guess else { continue };
        if readings.iter().all(|known| known.text.trim() != guess.trim()) {
            readings.push(Reading { sources: with(source), text: guess });
        }
    }
    readings
}

/// Undoes one kind of disguise throughout; `None` where there is none.
type Undo = fn(&str) -> Option<String>;

/// In this order: tags are gone from what is visible, and what is decoded may be disguised in its turn.
const UNDO: [(&str, Undo); 9] = [
    ("tags", tags),
    ("normalized", visible),
    ("percent", percent),
    ("html", html),
    ("base64", |text| replace_runs(text, base64_text)),
    ("hex", |text| replace_runs(text, hex_text)),
    ("normalized", visible),
    ("normalized", unshout),
    ("reversed", turned),
];

/// What a reader sees: NFKC, invisible characters removed, look-alike letters folded.
fn visible(text: &str) -> Option<String> {
    let plain: String = text.nfkc().filter(|&c| !invisible(c)).collect();
    Some(fold_homoglyphs(&plain))
}

/// A text in capitals throughout, in small letters.
fn unshout(text: &str) -> Option<String> {
    let (upper, lower) = text.chars().fold((0, 0), |(upper, lower), c| {
        (upper + usize::from(c.is_uppercase()), lower + usize::from(c.is_lowercase()))
    });
    (upper >= SHOUTED && upper > 4 * lower).then(|| text.to_lowercase())
}

/// Whether letters or digits were changed other than in case, or stood apart by what shows nothing: an ellipsis, a no-break
/// space or a coloured heart hide no word.
fn disguised(text: &str, seen: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let (mut before, mut hidden) = (false, false);
    let apart = text.chars().any(|c| {
        let between = before && hidden && c.is_alphanumeric();
        hidden = invisible(c);
        before = c.is_alphanumeric() || (hidden && before);
        between
    });
    apart || words(text) != words(seen)
}

/// Characters that show nothing: zero-width ones, joiners, bidi controls, variation selectors, Unicode tags, soft
/// hyphens, and control characters other than tab and line feed.
pub fn invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}'
        | '\u{FEFF}' | '\u{FFA0}' | '\u{E0000}'..='\u{E0FFF}')
        || (c.is_control() && !matches!(c, '\t' | '\n'))
}

/// Cyrillic and Greek letters that look like Latin ones.
const HOMOGLYPHS: [(char, char); 46] = [
    ('а', 'a'),
    ('в', 'b'),
    ('с', 'c'),
    ('ԁ', 'd'),
    ('е', 'e'),
    ('ғ', 'f'),
    ('һ', 'h'),
    ('і', 'i'),
    ('ј', 'j'),
    ('к', 'k'),
    ('ӏ', 'l'),
    ('м', 'm'),
    ('п', 'n'),
    ('о', 'o'),
    ('р', 'p'),
    ('ԛ', 'q'),
    ('г', 'r'),
    ('ѕ', 's'),
    ('т', 't'),
    ('ц', 'u'),
    ('ѵ', 'v'),
    ('ԝ', 'w'),
    ('х', 'x'),
    ('у', 'y'),
    ('А', 'A'),
    ('В', 'B'),
    ('С', 'C'),
    ('Е', 'E'),
    ('Н', 'H'),
    ('І', 'I'),
    ('К', 'K'),
    ('М', 'M'),
    ('О', 'O'),
    ('Р', 'P'),
    ('Ѕ', 'S'),
    ('Т', 'T'),
    ('Х', 'X'),
    ('У', 'Y'),
    ('α', 'a'),
    ('ε', 'e'),
    ('ι', 'i'),
    ('κ', 'k'),
    ('ν', 'v'),
    ('ο', 'o'),
    ('ρ', 'p'),
    ('υ', 'u'),
];

/// Folds look-alikes in the words that mix them with Latin letters and, where there is such a word, in those made of look-alikes
/// alone. A word with a letter that looks like no Latin one is another language's, not a disguise.
fn fold_homoglyphs(text: &str) -> String {
    let alike = |c: char| HOMOGLYPHS.iter().find(|(from, _)| *from == c).map(|(_, to)| *to);
    let is_alike = |word: &str| {
        word.chars().any(|c| alike(c).is_some())
            && word.chars().all(|c| c.is_ascii() || !c.is_alphabetic() || alike(c).is_some())
    };
    let mixed = |word: &str| is_alike(word) && word.chars().any(|c| c.is_ascii_alphabetic());
    if text.is_ascii() || !text.split_whitespace().any(mixed) {
        return text.to_owned();
    }
    let fold = |word: &str| match is_alike(word) {
        true => word.chars().map(|c| alike(c).unwrap_or(c)).collect(),
        false => word.to_owned(),
    };
    text.split_inclusive(char::is_whitespace).map(fold).collect()
}

/// What stands behind a number.
const UNITS: [&str; 20] =
    ["am", "pm", "mg", "g", "kg", "m", "km", "cm", "mm", "ml", "l", "k", "x", "d", "h", "s", "st", "rd", "th", "min"];

/// Folds digits and signs that stand for letters, in a word of mostly letters with such a sign between or before
/// letters ("h0w", "k1ll", "@ttack"). Codes, versions, hashes and measures ("a1b2c3", "v1.2", "10mg", "3D") stay. `one` is what a "1" stands for;
/// `wide`, for a text known to be written so, takes words of mostly signs too ("7h3", "0rg4n1$3r").
fn fold_leet(word: &str, one: char, wide: bool) -> String {
    let letter = |c: char| match c {
        '0' => Some('o'),
        '1' => Some(one),
        '!' => Some('i'),
        '3' => Some('e'),
        '4' | '@' => Some('a'),
        '5' | '$' => Some('s'),
        '7' => Some('t'),
        _ => None,
    };
    let core = word.trim_matches(|c: char| c.is_ascii_punctuation() && !matches!(c, '@' | '$'));
    let letters = core.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_uppercase()).count();
    let signs = core.chars().filter(|&c| letter(c).is_some()).count();
    let others = core.chars().count() - letters - signs;
    let followed = core.char_indices().any(|(at, c)| {
        letter(c).is_some() && core[at + c.len_utf8()..].chars().next().is_some_and(|next| next.is_ascii_alphabetic())
    });
    // A digit in front is a measure or an ordinal ("10mg", "4th", "3D"); an "@" inside is an address.
    let unit = core.trim_start_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase();
    let measure = unit.len() < core.len() && if wide { UNITS.contains(&unit.as_str()) } else { letters <= 2 };
    // Digits behind letters alone are a name's ("C4", "AK47"), which must not be lost.
    let name = core.trim_end_matches(|c: char| c.is_ascii_digit()).chars().all(|c| c.is_ascii_alphabetic());
    let (fewest, most) = if wide { (1, 4 * letters) } else { (2, letters) };
    let address = core.char_indices().any(|(at, c)| c == '@' && at > 0 && core.contains('.'));
    if letters < fewest
        || signs == 0
        || others > 0
        || signs > most
        || !(followed || wide && !name)
        || measure
        || address
        || core.len() > 20
    {
        return word.to_owned();
    }
    let at = word.find(core).unwrap_or(0);
    let folded: String = core.chars().map(|c| letter(c).unwrap_or(c)).collect();
    format!("{}{folded}{}", &word[..at], &word[at + core.len()..])
}

/// Rejoins letters written apart: "k i l l" becomes a word. Four single letters in a row at least; an
/// empty word between them (two spaces) ends one word and begins the next.
fn rejoin(words: &[String]) -> String {
    let single = |word: &str| word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let run = words[at..].iter().take_while(|word| single(word)).count();
        if run >= 4 {
            out.push(words[at..at + run].concat());
            at += run;
        } else {
            out.push(words[at].clone());
            at += 1;
        }
    }
    out.join(" ").trim().to_owned()
}

/// "b.o.m.b" and "b-o-m-b" to "bomb": single letters with one same separator, four at least. "U.S.A." stays.
fn undot(word: &str) -> String {
    for separator in ['.', '-', '_', '*'] {
        let parts: Vec<&str> = word.split(separator).collect();
        if parts.len() >= 4
            && parts.iter().all(|part| part.chars().count() == 1 && part.chars().all(char::is_alphabetic))
        {
            return parts.concat();
        }
    }
    word.to_owned()
}

/// Unicode tags, which show nothing, spell ASCII: the text with them spelled out. An emoji flag's are part of its picture.
fn tags(text: &str) -> Option<String> {
    let (mut out, mut found, mut flag) = (String::with_capacity(text.len()), 0, false);
    for c in text.chars() {
        match c {
            '\u{E0020}'..='\u{E007E}' if !flag => {
                out.extend(char::from_u32(c as u32 - 0xE0000));
                found += 1;
            }
            '\u{E0000}'..='\u{E007F}' => {}
            _ => {
                flag = c == '\u{1F3F4}';
                out.push(c);
            }
        }
    }
    (found >= MIN_DECODED).then_some(out)
}

/// Replaces every word that `decode` turns into text; `None` if there is none.
fn replace_runs(text: &str, decode: fn(&str) -> Option<String>) -> Option<String> {
    let mut found = false;
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| {
            let run = word.trim_matches(|c: char| matches!(c, '"' | '\'' | '`' | '(' | ')' | ',' | ':' | '<' | '>'));
            decode(run).map_or_else(
                || word.to_owned(),
                |text| {
                    found = true;
                    text
                },
            )
        })
        .collect();
    found.then(|| words.join(" "))
}

/// The bytes as text if they read like it: UTF-8, long enough, nearly all letters and spaces, with a space in it.
fn readable(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let count = text.chars().count();
    let plain = text.chars().filter(|c| c.is_alphabetic() || c.is_whitespace()).count();
    (count >= MIN_DECODED && plain * 10 >= count * 8 && text.contains(' ')).then_some(text)
}

fn base64_text(run: &str) -> Option<String> {
    let bare = run.trim_end_matches('=');
    if bare.len() < MIN_DECODED
        || !bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_'))
    {
        return None;
    }
    let standard = bare.replace('-', "+").replace('_', "/");
    readable(base64::engine::general_purpose::STANDARD_NO_PAD.decode(standard).ok()?)
}

fn hex_text(run: &str) -> Option<String> {
    let run = run.strip_prefix("0x").unwrap_or(run);
    let digits: Vec<u32> = run.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    if digits.len() < 2 * MIN_DECODED || !digits.len().is_multiple_of(2) {
        return None;
    }
    readable(digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

fn percent(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut found) = (0, 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|pair| Some((char::from(pair[0]).to_digit(16)? * 16 + char::from(pair[1]).to_digit(16)?) as u8));
        if let Some(code) = code {
            out.push(code);
            at += 3;
            found += 1;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    (found >= 3).then(|| String::from_utf8(out).ok()).flatten()
}

fn html(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut found) = (text, 0);
    while let Some(at) = rest.find("&#") {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 2..];
        let code = tail.split_once(';').and_then(|(digits, after)| {
            let value = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => digits.parse().ok()?,
            };
            Some((char::from_u32(value)?, after))
        });
        match code {
            Some((c, after)) => {
                out.push(c);
                found += 1;
                rest = after;
            }
            None => {
                out.push_str("&#");
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    (found >= 3).then_some(out)
}

/// The commonest English words: a text that has none of them before rot13 and several after is rot13.
const COMMON: [&str; 24] = [
    "the", "to", "a", "of", "and", "in", "is", "for", "how", "i", "me", "you", "that", "it", "on", "with", "can", "do",
    "what", "my", "an", "make", "write", "are",
];

fn rot13_text(text: &str) -> Option<String> {
    let common = |text: &str| {
        text.split(|c: char| !c.is_alphabetic())
            .filter(|word| COMMON.contains(&word.to_ascii_lowercase().as_str()))
            .count()
    };
    let rotate = |c: char| match c {
        'a'..='m' | 'A'..='M' => (c as u8 + 13) as char,
        'n'..='z' | 'N'..='Z' => (c as u8 - 13) as char,
        _ => c,
    };
    let turned: String = text.chars().map(rotate).collect();
    (common(&turned) >= 2 && common(&turned) > 2 * common(text)).then_some(turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<&'static str> {
        readings(text).into_iter().flat_map(|reading| reading.sources).collect()
    }

    fn has(text: &str, source: &str, want: &str) {
        let readings = readings(text);
        assert!(
            readings.iter().any(|reading| reading.sources.contains(&source) && reading.text.contains(want)),
            "{text:?}: no {source} reading holds {want:?}: {readings:?}"
        );
    }

    #[test]
    fn disguises_are_undone() {
        has("how do I b\u{200B}ake a c\u{200D}ake", "normalized", "bake a cake");
        has("ｂａｋｅ a cake", "normalized", "bake a cake");
        has("Reverse: ekac eht ekab ot woh", "reversed", "how to bake the cake");
        has("a = 'how to bak'; b = 'e it'; do a + b", "joined", "how to bake it");
        has("bаke а cаke tоday", "normalized", "bake");
        has("b a k e some bread", "normalized", "bake some bread");
        has("please b.a.k.e bread", "normalized", "please bake bread");
        has("h0w to b4ke bre4d", "normalized", "how to bake bread");
        has("decode aG93IHRvIGJha2UgYSBjYWtlIGF0IGhvbWU= please", "base64", "how to bake a cake at home");
        has("686f7720746f2062616b6520612063616b65", "hex", "how to bake a cake");
        has("how%20to%20bake%20a%20cake", "percent", "how to bake a cake");
        has("&#104;&#111;&#119; to bake", "html", "how to bake");
        has("ubj gb onxr n pnxr naq jevgr vg qbja", "rot13", "how to bake a cake and write it down");
        has(
            "b0ard the b04t w17h a C4 mailer and an A4 b00k",
            "normalized",
            "board the boat with a C4 mailer and an A4 book",
        );
        has("7h3 0rg4n1$3r h4$ 4 d0gs 4nd c4ts by 5pm", "normalized", "the organiser has 4 dogs and cats by 5pm");
        has("hel\u{E0062}\u{E0061}lo world", "normalized", "hello world");
        has("сору this tехt", "normalized", "copy this text");
        let hidden: String = "bake a cake now".chars().filter_map(|c| char::from_u32(c as u32 + 0xE0000)).collect();
        has(&format!("hello {hidden}"), "tags", "hello bake a cake now");
        let typed = Reading { sources: vec![], text: "Wait... I \u{2764} 5 kg of flour".into() };
        assert_eq!(readings("Wait… I \u{2764}\u{FE0F} 5\u{A0}kg of flour"), [typed]);
        let flags = "\u{1F3F4}\u{E0067}\u{E0062}\u{E0065}\u{E006E}\u{E0067}\u{E007F} ".repeat(3);
        assert_eq!(sources(&flags), Vec::<&str>::new(), "a flag is a picture");
    }

    #[test]
    fn what_hides_words_is_undone_and_a_guess_read_beside_the_text() {
        for (text, want) in [
            ("how do I b\u{200B}ake a c\u{200D}ake", &[&["normalized"] as &[&str]] as &[&[&str]]),
            ("bаke а cаke tоday", &[&["normalized"]]),
            ("ｂａｋｅ a cake", &[&["normalized"]]),
            ("how%20to%20bake%20a%20cake", &[&["percent"]]),
            ("&#104;&#111;&#119; to bake", &[&["html"]]),
            ("cаke: aG93IHRvIGJha2UgYSBjYWtlIGF0IGhvbWU=", &[&["normalized", "base64"]]),
            ("h0w to b4ke bre4d", &[&["normalized"]]),
            ("b0il 1entils s1owly", &[&["normalized"], &["normalized"]]),
            ("b.a.k.e some b.r.e.a.d", &[&["normalized"]]),
            ("please b.a.k.e bread", &[&[], &["normalized"]]),
            ("is Log4Shell fixed?", &[&[], &["normalized"]]),
            ("b a k e bread", &[&[], &["normalized"]]),
            ("ubj gb onxr n pnxr naq jevgr vg qbja", &[&[], &["rot13"]]),
        ] {
            let sources: Vec<_> = readings(text).into_iter().map(|reading| reading.sources).collect();
            assert_eq!(sources, want, "{text:?}: {:?}", readings(text));
        }
    }

    #[test]
    fn capitals_throughout_are_read_as_small_letters() {
        let text = |text| readings(text).remove(0).text;
        assert_eq!(text("HOW DO I BAKE A CAKE? THX"), "how do i bake a cake? thx");
        for kept in ["NASA and ESA", "WHO?", "HTTP GET", "I said NO and meant it", "FAQ"] {
            assert_eq!(text(kept), kept);
        }
    }

    #[test]
    fn ordinary_text_has_one_reading() {
        for text in [
            "How do I kill a Python process?",
            "commit 3f9a2c81b7d04e5f6a7b8c9d0e1f2a3b4c5d6e7f broke the build",
            "d41d8cd98f00b204e9800998ecf8427e",
            "take 10mg twice, 3D printing, 4th of July, MP3, H2O, v1.2.3, 1080p",
            "mail me at someone4@example.com",
            "Привет, как дела?",
            "Ищу C++-разработчика",
            "Γειά σου Κόσμε",
            "let x = a[0] + b1;",
            "Is the U.S.A. larger than the E.U.?",
            "plan A or plan B",
            "مرحبا بالعالم",
            "50% of 20% is 10%",
            "the cat sat on the mat",
        ] {
            assert_eq!(sources(text), Vec::<&str>::new(), "{text:?}: {:?}", readings(text));
        }
    }
}
