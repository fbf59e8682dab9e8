//! Loads a model from a stream of bytes: the header first, then each tensor's bytes straight to the engine. The file
//! is never held whole beside the weights.

use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::{cpu, gpu};

/// Where the weights go.
pub enum Target {
    Cpu,
    Gpu(gpu::Device),
    /// candle's implementation; it takes the whole file, and holds it until it is loaded.
    #[cfg(not(target_arch = "wasm32"))]
    Reference,
}

enum Sink {
    Cpu(cpu::WeightLoader),
    Gpu(Box<gpu::WeightLoader>),
    #[cfg(not(target_arch = "wasm32"))]
    Reference {
        file: Vec<u8>,
        config: Config,
    },
}

/// Takes the file in order, in chunks of any size.
pub struct Loader {
    target: Target,
    header: Vec<u8>,
    /// Bytes of the file seen so far.
    at: u64,
    opened: Option<(Gguf, Sink)>,
    /// Index of the first tensor that is not complete.
    tensor: usize,
}

impl Loader {
    pub fn new(target: Target) -> Self {
        Loader { target, header: Vec::new(), at: 0, opened: None, tensor: 0 }
    }

    /// The next bytes of the file.
    pub fn push(&mut self, chunk: &[u8]) -> Result<()> {
        if self.opened.is_some() {
            return self.feed(chunk);
        }
        self.header.extend_from_slice(chunk);
        let Some(gguf) = Gguf::parse(&self.header)? else { return Ok(()) };
        let config = Config::from_gguf(&gguf)?;
        let sink = match &self.target {
            Target::Cpu => Sink::Cpu(cpu::WeightLoader::new(&config, &gguf)?),
            Target::Gpu(device) => Sink::Gpu(Box::new(gpu::WeightLoader::new(device, &config, &gguf)?)),
            #[cfg(not(target_arch = "wasm32"))]
            Target::Reference => Sink::Reference { file: Vec::new(), config },
        };
        self.opened = Some((gguf, sink));
        let held = std::mem::take(&mut self.header);
        self.feed(&held)
    }

    /// Hands the part of `chunk` that belongs to tensors on; the chunk begins at file offset `self.at`.
    fn feed(&mut self, chunk: &[u8]) -> Result<()> {
        let (gguf, sink) = self.opened.as_mut().ok_or_else(|| Error::internal("no header yet"))?;
        let end = self.at + chunk.len() as u64;
        #[cfg(not(target_arch = "wasm32"))]
        if let Sink::Reference { file, .. } = sink {
            file.extend_from_slice(chunk);
        }
        while let Some(entry) = gguf.tensors.get(self.tensor) {
            let (from, to) = (entry.offset.max(self.at), (entry.offset + entry.bytes).min(end));
            if from < to {
                let bytes = &chunk[(from - self.at) as usize..(to - self.at) as usize];
                match sink {
                    Sink::Cpu(sink) => sink.write(self.tensor, from - entry.offset, bytes)?,
                    Sink::Gpu(sink) => sink.write(self.tensor, from - entry.offset, bytes)?,
                    #[cfg(not(target_arch = "wasm32"))]
                    Sink::Reference { .. } => {}
                }
            }
            if entry.offset + entry.bytes > end {
                break;
            }
            self.tensor += 1;
        }
        self.at = end;
        Ok(())
    }

    /// Lets the GPU repack what has arrived. Call it between chunks, so that raw bytes do not pile up beside the planes.
    pub async fn settle(&mut self) -> Result<()> {
        match &mut self.opened {
            Some((_, Sink::Gpu(sink))) => sink.repack().await,
            _ => Ok(()),
        }
    }

    /// The engine and the header, once the whole file has been pushed.
    pub async fn finish(self) -> Result<(Engine, Gguf)> {
        let Some((gguf, sink)) = self.opened else {
            return Err(Error::format("header", format!("the file ends after {} bytes, within its header", self.at)));
        };
        if let Some(entry) = gguf.tensors.get(self.tensor) {
            return Err(Error::format(
                format!("tensor {:?}", entry.name),
                format!("the file ends after {} of {} bytes, before this tensor is complete", self.at, gguf.file_bytes),
            ));
        }
        let engine = match sink {
            Sink::Cpu(sink) => Engine::Cpu(Box::new(sink.finish()?)),
            Sink::Gpu(sink) => Engine::Gpu(Box::new(sink.finish().await?)),
            #[cfg(not(target_arch = "wasm32"))]
            Sink::Reference { file, config } => {
                Engine::Reference(Box::new(crate::reference::Model::new(&file, config)?))
            }
        };
        Ok((engine, gguf))
    }
}

/// Loads a GGUF file, or a folder with a `manifest.json` and the file's shards, checking each shard's SHA-256.
#[cfg(not(target_arch = "wasm32"))]
pub async fn load_file(path: &std::path::Path, target: Target) -> Result<(Engine, Gguf)> {
    use std::io::Read;

    let unreadable = |path: &std::path::Path, error: std::io::Error| Error::Argument {
        problem: format!("{}: {error}", path.display()),
    };
    let shards = match path.is_dir() {
        false => vec![(path.to_owned(), None)],
        true => {
            let file = path.join("manifest.json");
            let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, error))?;
            let manifest: Manifest = serde_json::from_str(&text)
                .map_err(|error| Error::format(file.display().to_string(), error.to_string()))?;
            manifest.shards.into_iter().map(|shard| (path.join(&shard.file), Some(shard))).collect()
        }
    };
    let mut loader = Loader::new(target);
    let mut buffer = vec![0u8; 1 << 20];
    for (path, shard) in shards {
        let mut file = std::fs::File::open(&path).map_err(|error| unreadable(&path, error))?;
        let mut check = shard.map(|shard| ShardCheck::new(shard.file, shard.bytes, &shard.sha256));
        loop {
            let count = file.read(&mut buffer).map_err(|error| unreadable(&path, error))?;
            if count == 0 {
                break;
            }
            if let Some(check) = &mut check {
                check.update(&buffer[..count]);
            }
            loader.push(&buffer[..count])?;
            loader.settle().await?;
        }
        if let Some(check) = check {
            check.finish()?;
        }
    }
    loader.finish().await
}

/// `manifest.json`: the shards of one GGUF file, in order.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Manifest {
    pub shards: Vec<Shard>,
}

/// A run of the file's bytes.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Shard {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Checks a shard's length and SHA-256 while its bytes go by.
pub struct ShardCheck {
    name: String,
    bytes: u64,
    sha256: String,
    seen: u64,
    hash: sha2::Sha256,
}

impl ShardCheck {
    pub fn new(name: String, bytes: u64, sha256: &str) -> Self {
        ShardCheck { name, bytes, sha256: sha256.to_ascii_lowercase(), seen: 0, hash: sha2::Digest::new() }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        sha2::Digest::update(&mut self.hash, bytes);
    }

    pub fn finish(self) -> Result<()> {
        let Self { name, bytes, sha256, seen, hash } = self;
        let refuse = |problem: String| Err(Error::Integrity { shard: name.clone(), problem });
        if seen != bytes {
            return refuse(format!("{seen} bytes came, the manifest states {bytes}"));
        }
        let found: String = sha2::Digest::finalize(hash).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != sha256 {
            return refuse(format!("its SHA-256 is {found}, the manifest states {sha256}"));
        }
        Ok(())
    }
}
