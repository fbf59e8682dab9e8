//! Detection metrics over scored rows, with bootstrap intervals.

use std::collections::BTreeMap;

use serde::Serialize;

/// One scored row.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub source: String,
    pub unsafe_: bool,
    pub score: f32,
}

/// A figure with its 95 % bootstrap interval; `None` where the set can't give it (no unsafe rows, no safe rows).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// What one source measures at a threshold, and free of one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub source: String,
    pub rows: usize,
    pub unsafe_rows: usize,
    pub precision: Option<Figure>,
    pub recall: Option<Figure>,
    pub f1: Option<Figure>,
    /// Share of the safe rows that are flagged.
    pub fpr: Option<Figure>,
    /// Area under the precision-recall curve (average precision).
    pub auprc: Option<Figure>,
    /// F1 at the best threshold for this set: an upper bound, not an operating point.
    pub best_f1: Option<f64>,
    /// Recall at the threshold that flags at most 1 % of the safe rows.
    pub recall_at_1_percent_fpr: Option<f64>,
    /// Expected calibration error, 15 equal bins.
    pub ece: f64,
}

/// Reports per source, then over all rows (source `all`).
pub fn reports(rows: &[Scored], threshold: f32) -> Vec<Report> {
    let mut by_source: BTreeMap<&str, Vec<(f32, bool)>> = BTreeMap::new();
    for row in rows {
        by_source.entry(&row.source).or_default().push((row.score, row.unsafe_));
    }
    let mut reports: Vec<Report> = by_source.iter().map(|(source, rows)| report(source, rows, threshold)).collect();
    if by_source.len() > 1 {
        let all: Vec<(f32, bool)> = rows.iter().map(|row| (row.score, row.unsafe_)).collect();
        reports.push(report("all", &all, threshold));
    }
    reports
}

/// Figures at the threshold, in this order: precision, recall, F1, FPR, AUPRC.
const FIGURES: usize = 5;
const RESAMPLES: usize = 500;

fn report(source: &str, rows: &[(f32, bool)], threshold: f32) -> Report {
    let unsafe_rows = rows.iter().filter(|row| row.1).count();
    let point = figures(rows, threshold);
    let mut samples: [Vec<f64>; FIGURES] = Default::default();
    let mut draw = Draws(0x9E37_79B9_7F4A_7C15);
    let mut resample = Vec::with_capacity(rows.len());
    for _ in 0..RESAMPLES {
        resample.clear();
        resample.extend((0..rows.len()).map(|_| rows[draw.below(rows.len())]));
        for (sample, figure) in samples.iter_mut().zip(figures(&resample, threshold)) {
            sample.extend(figure);
        }
    }
    let mut figures = point.into_iter().zip(samples).map(|(value, mut sample)| {
        sample.sort_by(f64::total_cmp);
        let at = |share: f64| sample.get((share * (sample.len() as f64 - 1.0)).round() as usize).copied();
        value.map(|value| Figure { value, low: at(0.025).unwrap_or(value), high: at(0.975).unwrap_or(value) })
    });
    let mut next = || figures.next().flatten();
    let (precision, recall, f1, fpr, auprc) = (next(), next(), next(), next(), next());
    let curve = curve(rows);
    let safe_rows = rows.len() - unsafe_rows;
    Report {
        source: source.to_owned(),
        rows: rows.len(),
        unsafe_rows,
        precision,
        recall,
        f1,
        fpr,
        auprc,
        best_f1: (unsafe_rows > 0).then(|| {
            curve.iter().map(|&(tp, fp)| 2.0 * tp as f64 / (tp + fp + unsafe_rows) as f64).fold(0.0, f64::max)
        }),
        recall_at_1_percent_fpr: (unsafe_rows > 0 && safe_rows > 0).then(|| {
            let allowed = safe_rows / 100;
            curve
                .iter()
                .filter(|&&(_, fp)| fp <= allowed)
                .map(|&(tp, _)| tp as f64 / unsafe_rows as f64)
                .fold(0.0, f64::max)
        }),
        ece: ece(rows),
    }
}

fn figures(rows: &[(f32, bool)], threshold: f32) -> [Option<f64>; FIGURES] {
    let count = |flagged: bool, unsafe_: bool| {
        rows.iter().filter(|&&(score, label)| (score >= threshold) == flagged && label == unsafe_).count() as f64
    };
    let (tp, fp, missed, passed) = (count(true, true), count(true, false), count(false, true), count(false, false));
    let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    let positives = tp + missed;
    [
        if positives > 0.0 { ratio(tp, tp + fp) } else { None },
        ratio(tp, positives),
        if positives > 0.0 { ratio(2.0 * tp, 2.0 * tp + fp + missed) } else { None },
        ratio(fp, fp + passed),
        average_precision(rows),
    ]
}

/// (true positives, false positives) at every distinct score, from the highest down.
fn curve(rows: &[(f32, bool)]) -> Vec<(usize, usize)> {
    let mut sorted = rows.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut points = Vec::new();
    let (mut tp, mut fp) = (0, 0);
    for (index, &(score, label)) in sorted.iter().enumerate() {
        if label {
            tp += 1
        } else {
            fp += 1
        }
        if sorted.get(index + 1).is_none_or(|next| next.0 != score) {
            points.push((tp, fp));
        }
    }
    points
}

/// Sum over the curve of precision times the gain in recall; `None` for a set of one class.
fn average_precision(rows: &[(f32, bool)]) -> Option<f64> {
    let positives = rows.iter().filter(|row| row.1).count();
    if positives == 0 || positives == rows.len() {
        return None;
    }
    let mut area = 0.0;
    let mut before = 0;
    for (tp, fp) in curve(rows) {
        area += (tp - before) as f64 / positives as f64 * tp as f64 / (tp + fp) as f64;
        before = tp;
    }
    Some(area)
}

fn ece(rows: &[(f32, bool)]) -> f64 {
    const BINS: usize = 15;
    let mut bins = [(0usize, 0f64, 0f64); BINS];
    for &(score, label) in rows {
        let bin = &mut bins[((score * BINS as f32) as usize).min(BINS - 1)];
        bin.0 += 1;
        bin.1 += score as f64;
        bin.2 += f64::from(label);
    }
    bins.iter().map(|&(_, scores, labels)| (scores - labels).abs()).sum::<f64>() / rows.len().max(1) as f64
}

/// A small deterministic generator (SplitMix64), so that intervals are the same in every run.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// The reports as a table for people.
pub fn table(reports: &[Report]) -> String {
    let percent = |figure: Option<f64>| figure.map_or("-".to_owned(), |value| format!("{:.1}", value * 100.0));
    let interval = |figure: Option<Figure>| {
        figure
            .map_or("-".to_owned(), |f| format!("{:.1} [{:.1}, {:.1}]", f.value * 100.0, f.low * 100.0, f.high * 100.0))
    };
    let mut rows = vec![
        ["source", "rows", "unsafe", "precision", "recall", "F1", "FPR", "AUPRC", "best F1", "R@1%FPR", "ECE"]
            .map(str::to_owned),
    ];
    for report in reports {
        rows.push([
            report.source.clone(),
            report.rows.to_string(),
            report.unsafe_rows.to_string(),
            interval(report.precision),
            interval(report.recall),
            interval(report.f1),
            interval(report.fpr),
            interval(report.auprc),
            percent(report.best_f1),
            percent(report.recall_at_1_percent_fpr),
            format!("{:.3}", report.ece),
        ]);
    }
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        out.push_str(&format!("| {} |\n", row.join(" | ")));
        if index == 0 {
            out.push_str(&format!("|{}\n", "---|".repeat(row.len())));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(scores: &[(f32, bool)]) -> Vec<Scored> {
        scores.iter().map(|&(score, unsafe_)| Scored { source: "set".into(), unsafe_, score }).collect()
    }

    #[test]
    fn figures_match_a_hand_count() {
        // Ranked: u s u u s s; threshold 0.5 flags the first four.
        let scored = rows(&[(0.9, true), (0.8, false), (0.7, true), (0.6, true), (0.4, false), (0.1, false)]);
        let report = &reports(&scored, 0.5)[0];
        assert!((report.precision.unwrap().value - 0.75).abs() < 1e-9);
        assert!((report.recall.unwrap().value - 1.0).abs() < 1e-9);
        assert!((report.f1.unwrap().value - 6.0 / 7.0).abs() < 1e-9);
        assert!((report.fpr.unwrap().value - 1.0 / 3.0).abs() < 1e-9);
        // Average precision: (1/1 + 2/3 + 3/4) / 3.
        assert!((report.auprc.unwrap().value - (1.0 + 2.0 / 3.0 + 0.75) / 3.0).abs() < 1e-9);
        assert!((report.recall_at_1_percent_fpr.unwrap() - 1.0 / 3.0).abs() < 1e-9);
        let figure = report.f1.unwrap();
        assert!(figure.low <= figure.value && figure.value <= figure.high && figure.low < figure.high);
    }

    #[test]
    fn a_set_of_one_class_has_only_the_figures_that_exist() {
        let report = &reports(&rows(&[(0.9, true), (0.2, true)]), 0.5)[0];
        assert_eq!((report.fpr, report.auprc), (None, None));
        assert!((report.recall.unwrap().value - 0.5).abs() < 1e-9);
        let report = &reports(&rows(&[(0.9, false), (0.2, false)]), 0.5)[0];
        assert_eq!((report.recall, report.f1, report.best_f1), (None, None, None));
        assert!((report.fpr.unwrap().value - 0.5).abs() < 1e-9);
    }

    #[test]
    fn tied_scores_count_as_one_point_of_the_curve() {
        assert_eq!(curve(&[(0.5, true), (0.5, false), (0.5, true)]), vec![(2, 1)]);
    }
}
