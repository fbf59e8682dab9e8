//! Scores, presets, the verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// The guardian's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    Safe,
    Unsafe,
}

/// A named operating point, chosen on development data; its threshold travels in the model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Flags least.
    Permissive,
    #[default]
    Balanced,
    /// Flags most.
    Strict,
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "permissive" => Ok(Preset::Permissive),
            "balanced" => Ok(Preset::Balanced),
            "strict" => Ok(Preset::Strict),
            _ => Err(Error::Argument {
                problem: format!("no preset is named {name:?}; \"permissive\", \"balanced\" and \"strict\" are"),
            }),
        }
    }
}

/// What turns logits into a verdict: `guardian.temperature`, `guardian.bias` and `guardian.threshold.*` of the model file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Calibration {
    pub temperature: f32,
    /// The margin that means even odds; 0 in files that have none.
    pub bias: f32,
    pub permissive: f32,
    pub balanced: f32,
    pub strict: f32,
}

impl Calibration {
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let threshold = |name: &str| {
            let key = format!("guardian.threshold.{name}");
            let value = gguf.float(&key)?;
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::format(format!("key {key:?}"), format!("{value} is no probability")));
            }
            Ok(value)
        };
        let temperature = gguf.float("guardian.temperature")?;
        if temperature <= 0.0 {
            return Err(Error::format("key \"guardian.temperature\"", format!("{temperature} is not above 0")));
        }
        let bias = if gguf.metadata.contains_key("guardian.bias") { gguf.float("guardian.bias")? } else { 0.0 };
        let calibration = Calibration {
            temperature,
            bias,
            permissive: threshold("permissive")?,
            balanced: threshold("balanced")?,
            strict: threshold("strict")?,
        };
        if !(calibration.strict <= calibration.balanced && calibration.balanced <= calibration.permissive) {
            return Err(Error::format(
                "keys \"guardian.threshold.*\"",
                "are not in the order strict, balanced, permissive",
            ));
        }
        Ok(calibration)
    }

    pub fn threshold(&self, preset: Preset) -> f32 {
        match preset {
            Preset::Permissive => self.permissive,
            Preset::Balanced => self.balanced,
            Preset::Strict => self.strict,
        }
    }

    /// The probability of harm: `sigmoid((l_unsafe - l_safe - bias) / T)` (Platt 1999, with temperature scaling's T).
    pub fn score(&self, safe: f32, unsafe_: f32) -> Result<f32> {
        let margin = (unsafe_ - safe - self.bias) / self.temperature;
        if !margin.is_finite() {
            return Err(Error::internal("the label logits are not finite"));
        }
        Ok(1.0 / (1.0 + (-margin).exp()))
    }
}

/// What the guardian says of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub label: Label,
    /// Calibrated probability of harm, 0 to 1: the maximum over all windows and readings of the text.
    pub score: f32,
    /// `unsafe` from this score on.
    pub threshold: f32,
    /// The preset the threshold came from; `None` where the caller gave a threshold.
    pub preset: Option<Preset>,
    /// The likeliest category of an unsafe text; `None` for a safe one.
    pub category: Option<String>,
    /// Probability of each category, given that the text is harmful.
    pub categories: BTreeMap<String, f32>,
    /// Tokens of the text as it was typed.
    pub tokens: usize,
    /// Forward passes it took: windows of all readings that were screened.
    pub windows: usize,
    /// Oldest turns of a conversation that did not fit beside the last one, so that it was judged without them.
    #[serde(rename = "turnsDropped")]
    pub turns_dropped: usize,
    /// What was undone in the reading whose score is the verdict's: `normalized`, `base64`, `rot13`, `reversed`, `joined`, ...; empty for the text as typed.
    pub decoded: Vec<String>,
    /// Wall-clock time, milliseconds.
    pub ms: f64,
    /// `gpu` or `cpu`.
    pub backend: &'static str,
    /// `general.name` of the model file.
    pub model: String,
}

/// Softmax over a few logits.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_odds_lie_at_the_bias_and_the_temperature_stretches_around_it() {
        let calibration = Calibration { temperature: 2.0, bias: -1.0, permissive: 0.9, balanced: 0.5, strict: 0.1 };
        assert_eq!(calibration.score(3.0, 2.0).unwrap(), 0.5);
        let logistic = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert!((calibration.score(0.0, 3.0).unwrap() - logistic(2.0)).abs() < 1e-6);
        assert!((calibration.score(5.0, 0.0).unwrap() - logistic(-2.0)).abs() < 1e-6);
        for broken in [f32::NAN, f32::INFINITY] {
            assert_eq!(calibration.score(0.0, broken).unwrap_err().code(), "internal");
        }
    }
}
