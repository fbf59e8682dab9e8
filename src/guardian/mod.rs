//! The guardian: text in, verdict or safeguard reply out. It does not know which engine computes.

pub mod eval;
#[allow(clippy::module_inception)]
mod guardian;
pub mod normalize;
mod protocol;
mod reorder;
mod reply;
mod verdict;
mod window;

pub use guardian::{Guardian, Info, ScreenOptions};
pub use protocol::{Message, Protocol, Role};
pub use reply::ReplyOptions;
pub use verdict::{Calibration, Label, Preset, Verdict};
