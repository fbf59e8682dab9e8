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
}

enum Sink {
    Cpu(cpu::WeightLoader),
    Gpu(Box<gpu::WeightLoader>),
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
        };
        self.opened = Some((gguf, sink));
        let held = std::mem::take(&mut self.header);
        self.feed(&held)
    }

    /// Hands the part of `chunk` that belongs to tensors on; the chunk begins at file offset `self.at`.
    fn feed(&mut self, chunk: &[u8]) -> Result<()> {
        let (gguf, sink) = self.opened.as_mut().ok_or_else(|| Error::internal("no header yet"))?;
        let end = self.at + chunk.len() as u64;
        while let Some(entry) = gguf.tensors.get(self.tensor) {
            let (from, to) = (entry.offset.max(self.at), (entry.offset + entry.bytes).min(end));
            if from < to {
                let bytes = &chunk[(from - self.at) as usize..(to - self.at) as usize];
                match sink {
                    Sink::Cpu(sink) => sink.write(self.tensor, from - entry.offset, bytes)?,
                    Sink::Gpu(sink) => sink.write(self.tensor, from - entry.offset, bytes)?,
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
        };
        Ok((engine, gguf))
    }
}
