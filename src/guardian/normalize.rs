//! Readings of a text: as typed, normalised, and with encoded runs decoded. An attacker hides words from the model
//! by spelling them differently; each trick undone is a reading of its own, screened beside the text as typed.

use base64::Engine as _;
use unicode_normalization::UnicodeNormalization;

/// Decoded runs per text; a longer list would let a page of hashes cost many passes.
const MAX_DECODED: usize = 4;
/// Characters an encoded run must decode to before it counts as text.
const MIN_DECODED: usize = 12;

/// The text as typed (source `None`), then every other reading that differs from it, with what made it.
pub fn readings(text: &str) -> Vec<(Option<&'static str>, String)> {
    let mut readings = vec![(None, text.to_owned())];
    let normalized = normalize(text);
    if !normalized.is_empty() && normalized != text.trim() {
        readings.push((Some("normalized"), normalized.clone()));
    }
    for (source, reading) in decoded(&normalized).into_iter().take(MAX_DECODED) {
        if !readings.iter().any(|(_, known)| *known == reading) {
            readings.push((Some(source), reading));
        }
    }
    readings
}

/// NFKC, invisible characters removed, look-alike letters folded, spaced letters rejoined, leetspeak folded.
pub fn normalize(text: &str) -> String {
    let plain: String = text.nfkc().filter(|&c| !invisible(c)).collect();
    let words: Vec<String> = plain.split(' ').map(|word| fold_leet(&fold_homoglyphs(word))).collect();
    rejoin(&words).trim().to_owned()
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

/// Folds look-alikes in a word that mixes scripts; a word wholly in another script is that language, not a disguise.
fn fold_homoglyphs(word: &str) -> String {
    let latin = word.chars().any(|c| c.is_ascii_alphabetic());
    let alike = |c: char| HOMOGLYPHS.iter().find(|(from, _)| *from == c).map(|(_, to)| *to);
    if !latin || !word.chars().any(|c| alike(c).is_some()) {
        return word.to_owned();
    }
    word.chars().map(|c| alike(c).unwrap_or(c)).collect()
}

/// Folds digits and signs that stand for letters, in a word of mostly letters with such a sign between or before
/// letters ("h0w", "k1ll", "@ttack"). Codes, versions, hashes and measures ("a1b2c3", "v1.2", "10mg", "3D") stay.
fn fold_leet(word: &str) -> String {
    let letter = |c: char| match c {
        '0' => Some('o'),
        '1' | '!' => Some('i'),
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
    let measure = core.starts_with(|c: char| c.is_ascii_digit()) && letters <= 2;
    let address = core.char_indices().any(|(at, c)| c == '@' && at > 0 && core.contains('.'));
    if letters < 2 || signs == 0 || others > 0 || signs > letters || !followed || measure || address || core.len() > 20
    {
        return word.to_owned();
    }
    let at = word.find(core).unwrap_or(0);
    let folded: String = core.chars().map(|c| letter(c).unwrap_or(c)).collect();
    format!("{}{folded}{}", &word[..at], &word[at + core.len()..])
}

/// Rejoins letters written apart: "k i l l" and "b.o.m.b" become words. Four single letters in a row at least; an
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
            out.push(undot(&words[at]));
            at += 1;
        }
    }
    out.join(" ")
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

/// Readings with encoded runs decoded in place; only those that decode to text.
fn decoded(text: &str) -> Vec<(&'static str, String)> {
    let mut readings = Vec::new();
    let mut push = |source, reading: Option<String>| {
        if let Some(reading) = reading.filter(|reading| reading != text) {
            readings.push((source, reading));
        }
    };
    push("percent", percent(text));
    push("html", html(text));
    push("base64", replace_runs(text, base64_text));
    push("hex", replace_runs(text, hex_text));
    push("rot13", rot13_text(text));
    readings
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
        readings(text).into_iter().filter_map(|(source, _)| source).collect()
    }

    fn has(text: &str, source: &str, want: &str) {
        let readings = readings(text);
        assert!(
            readings.iter().any(|(s, reading)| *s == Some(source) && reading.contains(want)),
            "{text:?}: no {source} reading holds {want:?}: {readings:?}"
        );
    }

    #[test]
    fn disguises_are_undone() {
        has("how do I b\u{200B}ake a c\u{200D}ake", "normalized", "bake a cake");
        has("ｂａｋｅ a cake", "normalized", "bake a cake");
        has("bаke а cаke tоday", "normalized", "bake");
        has("b a k e some bread", "normalized", "bake some bread");
        has("please b.a.k.e bread", "normalized", "please bake bread");
        has("h0w to b4ke bre4d", "normalized", "how to bake bread");
        has("decode aG93IHRvIGJha2UgYSBjYWtlIGF0IGhvbWU= please", "base64", "how to bake a cake at home");
        has("686f7720746f2062616b6520612063616b65", "hex", "how to bake a cake");
        has("how%20to%20bake%20a%20cake", "percent", "how to bake a cake");
        has("&#104;&#111;&#119; to bake", "html", "how to bake");
        has("ubj gb onxr n pnxr naq jevgr vg qbja", "rot13", "how to bake a cake and write it down");
        has("hello \u{E0062}\u{E0061}world", "normalized", "hello world");
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
