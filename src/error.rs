//! One error type for the whole crate. Every variant has a stable [`Error::code`] that callers may match on, and a
//! message that says which input, where, and what to do about it.

/// What went wrong. Messages are for people; [`Error::code`] is for programs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The bytes are no well-formed GGUF file, or a truncated or corrupted one.
    #[error("the model file is damaged: {place}: {problem}; download it again")]
    Format { place: String, problem: String },
    /// A well-formed file that this engine does not run.
    #[error("the model is not supported: {place}: {problem}")]
    Unsupported { place: String, problem: String },
    /// A shard's bytes do not have the size or the SHA-256 that the manifest states.
    #[error("shard {shard}: {problem}; refusing to run on it, download it again")]
    Integrity { shard: String, problem: String },
    /// The text or the conversation can't be screened as it is.
    #[error("{problem}")]
    Input { problem: String },
    /// The sequence would not fit the model's context.
    #[error("{tokens} tokens do not fit the model's context of {context}; shorten the input")]
    ContextOverflow { tokens: usize, context: usize },
    /// No usable GPU: no adapter, a missing limit, a shader that does not compile.
    #[error("the GPU can't be used: {problem}; the CPU can")]
    GpuUnavailable { problem: String },
    /// The GPU went away during a call.
    #[error("the GPU device was lost: {problem}; load again, or use the CPU")]
    DeviceLost { problem: String },
    /// The engine computes something other than its stored known answers.
    #[error("the {backend} failed its self-test: {problem}; no verdict of it can be trusted")]
    SelfTest { backend: String, problem: String },
    /// The caller asked to stop.
    #[error("the call was aborted")]
    Aborted,
    /// An argument or option has no such value.
    #[error("{problem}")]
    Argument { problem: String },
    /// A bug in this crate.
    #[error("internal error: {problem}; please report it")]
    Internal { problem: String },
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The stable code of this error, the same in Rust, on the command line and in JavaScript.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Format { .. } => "model-format",
            Error::Unsupported { .. } => "model-unsupported",
            Error::Integrity { .. } => "integrity",
            Error::Input { .. } => "input",
            Error::ContextOverflow { .. } => "context-overflow",
            Error::GpuUnavailable { .. } => "gpu-unavailable",
            Error::DeviceLost { .. } => "device-lost",
            Error::SelfTest { .. } => "self-test",
            Error::Aborted => "aborted",
            Error::Argument { .. } => "argument",
            Error::Internal { .. } => "internal",
        }
    }

    pub(crate) fn format(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Format { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Unsupported { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn input(problem: impl Into<String>) -> Self {
        Error::Input { problem: problem.into() }
    }

    pub(crate) fn internal(problem: impl std::fmt::Display) -> Self {
        Error::Internal { problem: problem.to_string() }
    }
}
