//! The guardian itself: ties sequences, windows, readings, scores and replies to an engine.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::normalize;
use super::protocol::{Message, Protocol, Role};
use super::reply::{ReplyOptions, loops, repeats};
use super::verdict::{Calibration, Label, Preset, Verdict, softmax};
use super::window;
use crate::cpu::Kernel;
use crate::engine::{Backend, Engine, PASS, Probe, Sequence};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tokenizer::{TextStream, Tokenizer};

/// The longest text one call screens, bytes of UTF-8. More is refused, not cut: at some 4 bytes a token this is
/// already 80 windows.
pub const MAX_TEXT_BYTES: usize = 128 * 1024;
/// Tokens of earlier turns that stand before the query; older turns are dropped whole, and the verdict says so.
const MAX_EARLIER: usize = 1024;

/// How a text is screened.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ScreenOptions {
    pub preset: Preset,
    /// Overrides the preset's threshold.
    pub threshold: Option<f32>,
}

/// What is loaded.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    pub model: String,
    pub version: String,
    pub backend: &'static str,
    /// The instructions of the CPU's matrix products; `None` for another backend.
    pub kernel: Option<&'static str>,
    pub calibration: Calibration,
    pub categories: Vec<String>,
    pub layers: usize,
    pub hidden: usize,
    pub vocab: usize,
    pub context: usize,
}

/// A loaded guardian. One call at a time: the engine has one KV cache.
pub struct Guardian {
    engine: Engine,
    tokenizer: Tokenizer,
    protocol: Protocol,
    calibration: Calibration,
    known_answers: Vec<(String, f32)>,
    name: String,
    version: String,
    /// The tokens in the engine's KV cache.
    cached: Vec<u32>,
    reply: Option<Writing>,
}

/// A reply being written.
struct Writing {
    options: ReplyOptions,
    /// Tokens to feed before the next one is picked.
    pending: Vec<u32>,
    written: Vec<u32>,
    text: TextStream,
}

/// A screening under way: what to ask of the model, and what it said so far.
struct Screening {
    threshold: f32,
    preset: Option<Preset>,
    tokens: usize,
    turns_dropped: usize,
    passes: Vec<Pass>,
    started: f64,
    /// The pass with the highest score, and its findings.
    best: Option<(usize, Reading)>,
    /// Passes that have run.
    done: usize,
}

/// One window of one reading of a text.
struct Pass {
    decoded: Vec<String>,
    prefix: Vec<u32>,
}

impl Screening {
    fn add(&mut self, pass: usize, found: Reading) {
        self.done += 1;
        if self.best.as_ref().is_none_or(|(_, best)| found.score > best.score) {
            self.best = Some((pass, found));
        }
    }

    /// Unsafe can't become safe again, and the rest could only raise the score.
    fn decided(&self) -> bool {
        self.best.as_ref().is_some_and(|(_, best)| best.score >= self.threshold.max(EARLY_STOP))
    }

    fn complete(&self) -> bool {
        self.decided() || self.done == self.passes.len()
    }
}

/// One pass's findings.
struct Reading {
    score: f32,
    categories: Vec<f32>,
}

/// A label margin may differ this much from the stored answer: arithmetic in another order, an f16 KV cache.
const SELF_TEST_TOLERANCE: f32 = 0.25;

impl Guardian {
    /// Ties a loaded engine to the tokenizer and the guardian's settings in the same file.
    pub fn new(engine: Engine, gguf: &Gguf) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        if tokenizer.vocab() != engine.config().vocab {
            return Err(Error::format(
                "key \"tokenizer.ggml.tokens\"",
                format!("{} tokens for an embedding of {} rows", tokenizer.vocab(), engine.config().vocab),
            ));
        }
        let prompts = gguf.strings("guardian.selftest.prompts")?;
        let margins = gguf.array("guardian.selftest.margins")?;
        let known_answers: Vec<(String, f32)> = prompts
            .iter()
            .zip(margins)
            .filter_map(|(prompt, margin)| Some(((*prompt).to_owned(), margin.to_f32().ok()?)))
            .collect();
        if known_answers.is_empty() || known_answers.len() != margins.len() || prompts.len() != margins.len() {
            return Err(Error::format("keys \"guardian.selftest.*\"", "are no pairs of prompt and margin"));
        }
        Ok(Guardian {
            protocol: Protocol::new(gguf, &tokenizer)?,
            calibration: Calibration::from_gguf(gguf)?,
            name: gguf.string("general.name")?.to_owned(),
            version: gguf.string("guardian.version")?.to_owned(),
            known_answers,
            engine,
            tokenizer,
            cached: Vec::new(),
            reply: None,
        })
    }

    pub fn info(&self) -> Info {
        let config = self.engine.config();
        Info {
            model: self.name.clone(),
            version: self.version.clone(),
            backend: self.backend(),
            kernel: (self.engine.backend() == Backend::Cpu).then(|| Kernel::best().name()),
            calibration: self.calibration,
            categories: self.protocol.categories.clone(),
            layers: config.layers,
            hidden: config.hidden,
            vocab: config.vocab,
            context: config.context,
        }
    }

    fn backend(&self) -> &'static str {
        match self.engine.backend() {
            Backend::Cpu => "cpu",
            Backend::Gpu => "gpu",
            Backend::Reference => "reference",
        }
    }

    /// The engine, for tests that take its device away.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Runs the known answers stored in the model file; they were computed by another implementation. An engine that
    /// fails must not be asked for verdicts.
    pub async fn self_test(&mut self) -> Result<()> {
        for (prompt, want) in self.known_answers.clone() {
            let query = self.tokenizer.encode(&prompt)?;
            let logits = self.label_logits(&self.protocol.prefix(&[], &query)).await?;
            let margin = logits[0][1] - logits[0][0];
            let difference = (margin - want).abs();
            if difference.is_nan() || difference > SELF_TEST_TOLERANCE {
                return Err(Error::SelfTest {
                    backend: self.backend().to_owned(),
                    problem: format!("the label margin of {prompt:?} is {margin:.3}, want {want:.3}"),
                });
            }
        }
        Ok(())
    }

    /// Screens a text or a conversation; the verdict is about the last turn, which must be the user's.
    pub async fn screen(&mut self, messages: &[Message], options: ScreenOptions) -> Result<Verdict> {
        let mut screening = self.prepare(messages, options)?;
        for pass in 0..screening.passes.len() {
            let logits = self.label_logits(&screening.passes[pass].prefix).await?;
            screening.add(pass, self.reading(&logits)?);
            if screening.decided() {
                break;
            }
        }
        self.verdict(screening)
    }

    /// Screens many, several in one pass of the model: the verdicts of [`Guardian::screen`], each with the time from the
    /// start to its own pass. What is wrong with one input is its own error; an engine that fails ends the call.
    pub async fn screen_batch(&mut self, inputs: &[(&[Message], ScreenOptions)]) -> Result<Vec<Result<Verdict>>> {
        let mut screenings: Vec<Result<Screening>> =
            inputs.iter().map(|(messages, options)| self.prepare(messages, *options)).collect();
        let mut waiting: VecDeque<(usize, usize)> = screenings
            .iter()
            .enumerate()
            .flat_map(|(index, screening)| {
                let passes = screening.as_ref().map_or(0, |screening| screening.passes.len());
                (0..passes).map(move |pass| (index, pass))
            })
            .collect();
        let mut verdicts: Vec<Option<Result<Verdict>>> = (0..inputs.len()).map(|_| None).collect();
        while !waiting.is_empty() {
            let mut group = Vec::new();
            let mut tokens = 0;
            while let Some(&(index, pass)) = waiting.front() {
                // Its verdict is given already, or certain.
                let Some(screening) = screenings[index].as_ref().ok().filter(|screening| !screening.decided()) else {
                    waiting.pop_front();
                    continue;
                };
                tokens += screening.passes[pass].prefix.len() + 2;
                if tokens > PASS && !group.is_empty() {
                    break;
                }
                group.push((index, pass, screening.passes[pass].prefix.clone()));
                waiting.pop_front();
            }
            let prefixes: Vec<&[u32]> = group.iter().map(|(_, _, prefix)| prefix.as_slice()).collect();
            let found = self.label_logits_of(&prefixes).await?;
            for ((index, pass, _), logits) in group.iter().zip(found) {
                let reading = self.reading(&logits)?;
                if let Ok(screening) = &mut screenings[*index]
                    && !screening.decided()
                {
                    screening.add(*pass, reading);
                }
            }
            // A verdict's time ends with its last pass.
            for (index, verdict) in verdicts.iter_mut().enumerate() {
                let done = screenings[index].as_ref().is_ok_and(|screening| screening.complete());
                if verdict.is_none() && done {
                    let screening = std::mem::replace(&mut screenings[index], Err(Error::internal("taken")));
                    *verdict = Some(screening.and_then(|screening| self.verdict(screening)));
                }
            }
        }
        Ok(verdicts
            .into_iter()
            .zip(screenings)
            .map(|(verdict, rest)| verdict.unwrap_or_else(|| rest.and_then(|screening| self.verdict(screening))))
            .collect())
    }

    /// Everything about a screening but the model's answers.
    fn prepare(&self, messages: &[Message], options: ScreenOptions) -> Result<Screening> {
        let started = now_ms();
        let threshold = match options.threshold {
            None => self.calibration.threshold(options.preset),
            Some(threshold) if (0.0..=1.0).contains(&threshold) => threshold,
            Some(threshold) => {
                return Err(Error::Argument {
                    problem: format!("a threshold of {threshold}; it is a probability, 0 to 1"),
                });
            }
        };
        let (text, earlier, turns_dropped) = self.conversation(messages)?;
        let mut passes = Vec::new();
        let typed = self.tokenizer.encode(text)?;
        let tokens = typed.len();
        for reading in normalize::readings(text) {
            // Nearly every text is read as it was typed, and need not be encoded twice.
            let query = if reading.text == text { typed.clone() } else { self.tokenizer.encode(&reading.text)? };
            for window in window::windows(query.len()) {
                let decoded = reading.sources.iter().map(|&source| source.to_owned()).collect();
                passes.push(Pass { decoded, prefix: self.protocol.prefix(&earlier, &query[window]) });
            }
        }
        Ok(Screening {
            threshold,
            preset: options.threshold.is_none().then_some(options.preset),
            tokens,
            turns_dropped,
            passes,
            started,
            best: None,
            done: 0,
        })
    }

    fn verdict(&self, screening: Screening) -> Result<Verdict> {
        let Screening { threshold, preset, tokens, turns_dropped, mut passes, started, best, done } = screening;
        let (pass, best) = best.ok_or_else(|| Error::internal("no window was screened"))?;
        let label = if best.score >= threshold { Label::Unsafe } else { Label::Safe };
        let names = &self.protocol.categories;
        let likeliest = (0..names.len()).max_by(|&a, &b| best.categories[a].total_cmp(&best.categories[b]));
        Ok(Verdict {
            label,
            score: best.score,
            threshold,
            preset,
            category: likeliest.filter(|_| label == Label::Unsafe).map(|index| names[index].clone()),
            categories: names.iter().cloned().zip(best.categories).collect::<BTreeMap<_, _>>(),
            tokens,
            windows: done,
            turns_dropped,
            decoded: std::mem::take(&mut passes[pass].decoded),
            ms: now_ms() - started,
            backend: self.backend(),
            model: self.name.clone(),
        })
    }

    /// Opens a reply; [`Guardian::reply_next`] writes it. A reply still open is given up.
    pub fn reply_start(&mut self, messages: &[Message], options: ReplyOptions) -> Result<()> {
        if options.max_tokens == 0 {
            return Err(Error::Argument { problem: "a reply of at most 0 tokens".into() });
        }
        if let crate::engine::Sampling::Random { temperature, min_p, .. } = options.sampling {
            let positive = temperature > 0.0 && temperature.is_finite();
            if !positive || !(0.0..=1.0).contains(&min_p) {
                return Err(Error::Argument {
                    problem: format!("temperature {temperature} and min_p {min_p}; want above 0, and 0 to 1"),
                });
            }
        }
        let (text, earlier, _) = self.conversation(messages)?;
        let mut query = self.tokenizer.encode(text)?;
        // A reply needs the request, not every page of it: the opening window says what is asked.
        query.truncate(window::WINDOW);
        let mut pending = self.protocol.prefix(&earlier, &query);
        pending.push(self.protocol.expl);
        if options.force {
            pending.push(self.protocol.harm);
        }
        self.reply = Some(Writing { options, pending, written: Vec::new(), text: TextStream::default() });
        Ok(())
    }

    /// The next piece of the open reply, perhaps empty (a character may take several tokens); `None` once it has ended.
    pub async fn reply_next(&mut self) -> Result<Option<String>> {
        let Some(mut writing) = self.reply.take() else { return Ok(None) };
        let Writing { options, written, .. } = &writing;
        if written.len() >= options.max_tokens || loops(written) {
            return Ok(Some(writing.text.finish()).filter(|rest| !rest.is_empty()));
        }
        let fresh = self.keep_common(&writing.pending)?;
        let tokens = writing.pending[fresh..].to_vec();
        let mut next = match self.engine.next(&tokens, options.sampling, self.protocol.own_ids.clone()).await {
            Ok(next) => next,
            Err(error) => return Err(self.forget(error)),
        };
        if repeats(&self.tokenizer.decode(written), &self.tokenizer.decode(&[next])) {
            // The same pass once more without that word; the guardian's own tokens, not skipped this time, end the text below.
            self.engine.rewind(self.engine.position() - 1)?;
            let last = &tokens[tokens.len() - 1..];
            next = match self.engine.next(last, options.sampling, next..next + 1).await {
                Ok(next) => next,
                Err(error) => return Err(self.forget(error)),
            };
        }
        self.cached.extend_from_slice(&tokens);
        // Any control token ends the text: <|im_end|> by training, one of the base's because it can't be text.
        let bytes = self.tokenizer.bytes(next);
        if bytes.is_empty() {
            return Ok(Some(writing.text.finish()).filter(|rest| !rest.is_empty()));
        }
        let piece = writing.text.push(bytes);
        writing.written.push(next);
        writing.pending.push(next);
        self.reply = Some(writing);
        Ok(Some(piece))
    }

    /// The whole reply at once.
    pub async fn reply(&mut self, messages: &[Message], options: ReplyOptions) -> Result<String> {
        self.reply_start(messages, options)?;
        let mut text = String::new();
        while let Some(piece) = self.reply_next().await? {
            text.push_str(&piece);
        }
        Ok(text)
    }

    /// Gives up the open reply.
    pub fn reply_cancel(&mut self) {
        self.reply = None;
    }

    /// Checks a conversation: the last turn's text, the earlier turns' tokens, and how many turns did not fit.
    fn conversation<'a>(&self, messages: &'a [Message]) -> Result<(&'a str, Vec<u32>, usize)> {
        let [earlier, last] = messages.split_last().map(|(last, earlier)| (earlier, last)).map_or_else(
            || Err(Error::input("the conversation is empty; give a text or at least one message")),
            |(earlier, last)| Ok([earlier, std::slice::from_ref(last)]),
        )?;
        let last = &last[0];
        if last.role != Role::User {
            return Err(Error::input("the last message is not the user's; a verdict is about what the user says"));
        }
        let text = last.content.as_str();
        if text.chars().all(|c| c.is_whitespace() || normalize::invisible(c)) {
            return Err(Error::input("the text is empty, or shows nothing; there is nothing to screen"));
        }
        let bytes = text.len();
        if bytes > MAX_TEXT_BYTES {
            return Err(Error::input(format!(
                "the text is {bytes} bytes long, and one call screens at most {MAX_TEXT_BYTES}; split it and screen the parts"
            )));
        }
        let mut kept: Vec<Vec<u32>> = Vec::new();
        let mut total = 0;
        for message in earlier.iter().rev() {
            // A turn this long can't fit; it need not be tokenised to know.
            if message.content.len() > MAX_EARLIER * 16 {
                break;
            }
            let turn = self.protocol.turn(message.role, &self.tokenizer.encode(&message.content)?);
            total += turn.len();
            if total > MAX_EARLIER {
                break;
            }
            kept.push(turn);
        }
        let dropped = earlier.len() - kept.len();
        Ok((text, kept.into_iter().rev().flatten().collect(), dropped))
    }

    /// Score and category probabilities of one pass.
    fn reading(&self, logits: &[Vec<f32>]) -> Result<Reading> {
        let score = self.calibration.score(logits[0][0], logits[0][1])?;
        Ok(Reading { score, categories: softmax(&logits[1]) })
    }

    /// Logits of `[safe, unsafe]` after `<|pred|>` and of the category names after `<|unsafe|>`.
    async fn label_logits(&mut self, prefix: &[u32]) -> Result<Vec<Vec<f32>>> {
        let ids = self.asking(prefix);
        let fresh = self.keep_common(&ids[..prefix.len()])?;
        let Sequence { tokens, probes } = self.sequence(&ids, fresh);
        match self.engine.probe(&tokens, &probes).await {
            Ok(logits) => {
                self.cached.extend_from_slice(&tokens);
                Ok(logits)
            }
            Err(error) => Err(self.forget(error)),
        }
    }

    /// The same for many prefixes, in passes that they share.
    async fn label_logits_of(&mut self, prefixes: &[&[u32]]) -> Result<Vec<Vec<Vec<f32>>>> {
        let [first, others @ ..] = prefixes else { return Ok(Vec::new()) };
        if others.is_empty() {
            return Ok(vec![self.label_logits(first).await?]);
        }
        // What all have in common is run once, and stays in the cache.
        let common = others.iter().fold(first.len() - 1, |common, other| {
            first[..common].iter().zip(&other[..other.len() - 1]).take_while(|(a, b)| a == b).count()
        });
        let kept = self.keep_common(&first[..common + 1])?;
        if kept < common {
            if let Err(error) = self.engine.probe(&first[kept..common], &[]).await {
                return Err(self.forget(error));
            }
            self.cached.extend_from_slice(&first[kept..common]);
        }
        let sequences: Vec<Sequence> =
            prefixes.iter().map(|prefix| self.sequence(&self.asking(prefix), common)).collect();
        match self.engine.probe_many(&sequences).await {
            Ok(logits) => Ok(logits),
            Err(error) => Err(self.forget(error)),
        }
    }

    /// `prefix` and the two tokens after which the label and the category are read.
    fn asking(&self, prefix: &[u32]) -> Vec<u32> {
        let mut ids = prefix.to_vec();
        ids.extend([self.protocol.pred, self.protocol.unsafe_]);
        ids
    }

    /// What is left of `ids` after the first `cached`, with the probes of its last two tokens.
    fn sequence(&self, ids: &[u32], cached: usize) -> Sequence {
        let tokens = ids[cached..].to_vec();
        let probes = vec![
            Probe { at: tokens.len() - 2, ids: vec![self.protocol.safe, self.protocol.unsafe_] },
            Probe { at: tokens.len() - 1, ids: self.protocol.category_ids.clone() },
        ];
        Sequence { tokens, probes }
    }

    /// Rewinds the KV cache to what it has in common with `ids`, all but the last of them at most: at least one token
    /// must be run to read logits. Returns how many are kept.
    fn keep_common(&mut self, ids: &[u32]) -> Result<usize> {
        let common = self.cached.iter().zip(ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        self.engine.rewind(common)?;
        self.cached.truncate(common);
        Ok(common)
    }

    /// After a failed pass the cache's content is unknown: start over next time.
    fn forget(&mut self, error: Error) -> Error {
        self.cached.clear();
        self.reply = None;
        // Position 0 is always within the cache.
        let _ = self.engine.rewind(0);
        error
    }
}

/// From this score on, further windows can't change what the caller sees.
const EARLY_STOP: f32 = 0.99;

/// A monotonic clock, milliseconds.
fn now_ms() -> f64 {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_secs_f64() * 1e3
    }
    #[cfg(target_arch = "wasm32")]
    crate::wasm::now_ms()
}
