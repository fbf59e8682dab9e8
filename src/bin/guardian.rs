//! The native command: `guardian screen | reply | eval`. Data on stdout, words for people on stderr.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use slm_guardian::engine::Sampling;
use slm_guardian::guardian::{Guardian, Message, Preset, ReplyOptions, ScreenOptions, eval};
use slm_guardian::loader::{Target, load_file};
use slm_guardian::{Error, gpu};

/// Screens prompts and writes safeguard replies, on this machine alone.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// A GGUF file, or a folder with manifest.json and shards
    #[arg(long, global = true, default_value = "model")]
    model: PathBuf,
    #[arg(long, global = true, value_enum, default_value = "auto")]
    backend: Backend,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    /// The GPU if it works and passes the self-test, else the CPU
    Auto,
    Cpu,
    Gpu,
    /// candle's implementation, to hold the other two against
    Reference,
}

#[derive(Subcommand)]
enum Command {
    /// One JSON verdict per input, a line each
    Screen {
        #[arg(long, default_value = "balanced")]
        preset: String,
        /// Lines {"id","prompt"} or {"id","messages"}; `-` reads standard input
        #[arg(long, conflicts_with = "text")]
        jsonl: Option<PathBuf>,
        #[arg(required_unless_present = "jsonl")]
        text: Vec<String>,
    },
    /// Streams a reply; with --jsonl, one JSON object per input, a line each
    Reply {
        /// A safeguard reply whatever the text
        #[arg(long)]
        force: bool,
        #[arg(long, default_value_t = ReplyOptions::default().max_tokens)]
        max_tokens: usize,
        /// Samples at this temperature instead of taking the likeliest token
        #[arg(long)]
        temperature: Option<f32>,
        #[arg(long, default_value_t = 0)]
        seed: u32,
        /// Lines {"id","prompt"} or {"id","messages"}; `-` reads standard input
        #[arg(long, conflicts_with = "text")]
        jsonl: Option<PathBuf>,
        #[arg(required_unless_present = "jsonl")]
        text: Option<String>,
    },
    /// Detection metrics per source, with bootstrap intervals
    Eval {
        /// Lines {"id","source","prompt","label"}
        #[arg(long)]
        jsonl: PathBuf,
        #[arg(long, default_value = "balanced")]
        preset: String,
        /// Folder for report.json and scores.jsonl
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// A line of input.
#[derive(Deserialize)]
struct Row {
    id: Option<serde_json::Value>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    source: Option<String>,
    label: Option<String>,
}

impl Row {
    fn messages(self) -> Option<Vec<Message>> {
        self.messages.or_else(|| Some(vec![Message::user(self.prompt?)]))
    }
}

/// Inputs that are screened together.
const BATCH: usize = 64;

/// What ends the command: its exit status and the words for it.
struct Stop(u8, String);

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let usage = matches!(error, Error::Input { .. } | Error::Argument { .. });
        Stop(if usage { 2 } else { 1 }, format!("{error} [{}]", error.code()))
    }
}

fn main() -> ExitCode {
    match pollster::block_on(run(Args::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop(status, problem)) => {
            eprintln!("guardian: {problem}");
            ExitCode::from(status)
        }
    }
}

async fn run(args: Args) -> Result<(), Stop> {
    match args.command {
        Command::Screen { preset, jsonl, text } => {
            let options = ScreenOptions { preset: preset.parse()?, threshold: None };
            let inputs = match jsonl {
                None => (1..).zip(text).map(|(n, text)| (n, n.into(), vec![Message::user(text)])).collect(),
                Some(path) => inputs(&path)?,
            };
            let mut guardian = open(&args.model, args.backend).await?;
            for batch in inputs.chunks(BATCH) {
                let wanted: Vec<_> = batch.iter().map(|(.., messages)| (messages.as_slice(), options)).collect();
                let verdicts = guardian.screen_batch(&wanted).await?;
                for ((line, id, _), verdict) in batch.iter().zip(verdicts) {
                    let verdict = verdict.map_err(|error| at_line(*line, error))?;
                    let mut object = serde_json::json!({ "id": id });
                    if let (Some(object), Ok(serde_json::Value::Object(verdict))) =
                        (object.as_object_mut(), serde_json::to_value(&verdict))
                    {
                        object.extend(verdict);
                    }
                    print(&format!("{object}\n"))?;
                }
            }
        }
        Command::Reply { force, max_tokens, temperature, seed, jsonl, text } => {
            let sampling = match temperature {
                None => Sampling::Greedy,
                Some(temperature) => Sampling::Random { temperature, min_p: 0.05, seed },
            };
            let options = ReplyOptions { force, max_tokens, sampling };
            let inputs = jsonl.as_deref().map(inputs).transpose()?;
            let mut guardian = open(&args.model, args.backend).await?;
            if let Some(text) = text {
                guardian.reply_start(&[Message::user(text)], options)?;
                while let Some(piece) = guardian.reply_next().await? {
                    print(&piece)?;
                }
                print("\n")?;
            }
            for (line, id, messages) in inputs.into_iter().flatten() {
                let mut reply = String::new();
                guardian.reply_start(&messages, options).map_err(|error| at_line(line, error))?;
                while let Some(piece) = guardian.reply_next().await.map_err(|error| at_line(line, error))? {
                    reply.push_str(&piece);
                }
                print(&format!("{}\n", serde_json::json!({ "id": id, "force": force, "reply": reply })))?;
            }
        }
        Command::Eval { jsonl, preset, out } => {
            let preset: Preset = preset.parse()?;
            let rows = rows(&jsonl)?;
            let mut guardian = open(&args.model, args.backend).await?;
            let threshold = guardian.info().calibration.threshold(preset);
            let mut scored = Vec::with_capacity(rows.len());
            let mut scores = String::new();
            let mut wanted = Vec::with_capacity(rows.len());
            for (line, mut row) in rows {
                let unsafe_ = match row.label.as_deref() {
                    Some("unsafe") => true,
                    Some("safe") => false,
                    _ => return Err(missing(&jsonl, line, "label (\"safe\" or \"unsafe\")")),
                };
                let source = row.source.take().unwrap_or_else(|| "rows".into());
                let id = row.id.take().unwrap_or_else(|| line.into());
                let messages = row.messages().ok_or_else(|| missing(&jsonl, line, "prompt"))?;
                wanted.push((line, source, unsafe_, id, messages));
            }
            for batch in wanted.chunks(BATCH) {
                let options = ScreenOptions { preset, threshold: None };
                let inputs: Vec<_> = batch.iter().map(|(.., messages)| (messages.as_slice(), options)).collect();
                let verdicts = guardian.screen_batch(&inputs).await?;
                for ((line, source, unsafe_, id, _), verdict) in batch.iter().zip(verdicts) {
                    let verdict = verdict.map_err(|error| {
                        let Stop(status, problem) = error.into();
                        Stop(status, format!("{}, line {line}: {problem}", jsonl.display()))
                    })?;
                    let category = verdict.categories.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name);
                    scores.push_str(&format!(
                        "{}\n",
                        serde_json::json!({ "id": id, "source": source, "unsafe": unsafe_, "score": verdict.score,
                            "category": category, "tokens": verdict.tokens, "decoded": verdict.decoded, "ms": verdict.ms })
                    ));
                    scored.push(eval::Scored { source: source.clone(), unsafe_: *unsafe_, score: verdict.score });
                }
                if scored.len() / 500 > (scored.len() - batch.len()) / 500 {
                    eprintln!("{} of {} rows", scored.len(), wanted.len());
                }
            }
            let reports = eval::reports(&scored, threshold);
            print(&eval::table(&reports))?;
            if let Some(out) = out {
                let report = serde_json::json!({ "threshold": threshold, "preset": preset, "model": guardian.info(), "reports": reports });
                write(&out, "report.json", &format!("{report:#}\n"))?;
                write(&out, "scores.jsonl", &scores)?;
            }
        }
    }
    Ok(())
}

/// Loads the model and lets it prove itself.
async fn open(model: &Path, backend: Backend) -> Result<Guardian, Stop> {
    let on_gpu = async || -> slm_guardian::Result<Guardian> {
        start(model, Target::Gpu(gpu::Device::new(gpu::DeviceOptions::default()).await?)).await
    };
    match backend {
        Backend::Cpu => Ok(start(model, Target::Cpu).await?),
        Backend::Gpu => Ok(on_gpu().await?),
        Backend::Reference => Ok(start(model, Target::Reference).await?),
        Backend::Auto => match on_gpu().await {
            Ok(guardian) => Ok(guardian),
            // A damaged file is as damaged for the CPU.
            Err(error) if !matches!(error.code(), "gpu-unavailable" | "device-lost" | "self-test") => Err(error.into()),
            Err(error) => {
                eprintln!("guardian: {error}; going on with the CPU");
                Ok(start(model, Target::Cpu).await?)
            }
        },
    }
}

async fn start(model: &Path, target: Target) -> slm_guardian::Result<Guardian> {
    let (engine, gguf) = load_file(model, target).await?;
    let mut guardian = Guardian::new(engine, &gguf)?;
    guardian.self_test().await?;
    Ok(guardian)
}

/// The rows of a JSONL file with their line numbers; a line that is no row ends it all.
fn rows(path: &Path) -> Result<Vec<(usize, Row)>, Stop> {
    let unreadable = |error: std::io::Error| Stop(2, format!("{}: {error}", path.display()));
    let reader: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::io::BufReader::new(std::fs::File::open(path).map_err(unreadable)?)),
    };
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(reader.lines()) {
        let text = text.map_err(unreadable)?;
        if !text.trim().is_empty() {
            let row = serde_json::from_str(&text)
                .map_err(|error| Stop(2, format!("{}, line {line}: {error}", path.display())))?;
            rows.push((line, row));
        }
    }
    Ok(rows)
}

/// A line's number, its id or the number for want of one, and its conversation.
type Input = (usize, serde_json::Value, Vec<Message>);

fn inputs(path: &Path) -> Result<Vec<Input>, Stop> {
    rows(path)?
        .into_iter()
        .map(|(line, mut row)| {
            let id = row.id.take().unwrap_or_else(|| line.into());
            let messages = row.messages().ok_or_else(|| missing(path, line, "prompt"))?;
            Ok((line, id, messages))
        })
        .collect()
}

fn at_line(line: usize, error: Error) -> Stop {
    let Stop(status, problem) = error.into();
    Stop(status, format!("input {line}: {problem}"))
}

fn missing(path: &Path, line: usize, field: &str) -> Stop {
    Stop(2, format!("{}, line {line}: no {field}", path.display()))
}

fn print(text: &str) -> Result<(), Stop> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Stop(1, format!("standard output: {error}")))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), Stop> {
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(folder.join(name), text))
        .map_err(|error| Stop(1, format!("{}: {error}", folder.join(name).display())))
}
