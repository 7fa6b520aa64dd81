//! Plots as inline SVG, drawn with plotters; legends are the page's business.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::learning::evaluate::{Curves, LatencyRow, in_order};
use crate::learning::metrics::Bin;

const SIZE: (u32, u32) = (400, 370);
const INK: RGBColor = RGBColor(60, 66, 75);
const GRID: RGBColor = RGBColor(228, 231, 236);
const FONT: &str = "sans-serif";

/// The colour of a model or baseline: distinct in hue and in lightness.
pub fn colour(name: &str) -> RGBColor {
    match name {
        "champion" => RGBColor(11, 87, 164),
        "rules" | "reference_rule" => RGBColor(180, 83, 9),
        "moving_average" | "sliding_p999" => RGBColor(21, 128, 96),
        "static_5s" => RGBColor(126, 34, 116),
        "jacobson" => RGBColor(107, 114, 128),
        _ => RGBColor(60, 66, 75),
    }
}

/// The same, for a style sheet.
pub fn css(name: &str) -> String {
    let RGBColor(r, g, b) = colour(name);
    format!("rgb({r},{g},{b})")
}

/// A linear axis that knows its ticks and how to write them.
#[derive(Clone)]
struct Axis {
    ends: (f64, f64),
    ticks: Vec<f64>,
    text: fn(f64) -> String,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.ends.0) / (self.ends.1 - self.ends.0);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.text)(*value)
    }
}

/// Axis titles and what a screen reader says.
struct Frame<'a> {
    x: &'a str,
    y: &'a str,
    label: &'a str,
}

type Drawn<T = String> = Result<T, Box<dyn Error + Send + Sync>>;

/// True positive rate over false positive rate.
pub fn roc(curves: &BTreeMap<String, Curves>, target: &str) -> String {
    let label = format!("ROC curves for {target}");
    let frame = Frame { x: "false positive rate", y: "true positive rate", label: &label };
    finish(lines(&frame, curves, |curve| &curve.roc, true))
}

/// Precision over recall.
pub fn precision_recall(curves: &BTreeMap<String, Curves>, target: &str) -> String {
    let label = format!("precision-recall curves for {target}");
    let frame = Frame { x: "recall", y: "precision", label: &label };
    finish(lines(&frame, curves, |curve| &curve.precision_recall, false))
}

fn lines(
    frame: &Frame<'_>,
    curves: &BTreeMap<String, Curves>,
    of: impl Fn(&Curves) -> &Vec<(f64, f64)>,
    diagonal: bool,
) -> Drawn {
    let axis = || Axis {
        ends: (0.0, 1.0),
        ticks: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        text: |x| format!("{x:.1}"),
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = builder(&root).build_cartesian_2d(axis(), axis())?;
        draw_mesh(&mut chart, frame)?;
        if diagonal {
            let points = [(0.0, 0.0), (1.0, 1.0)];
            chart.draw_series(DashedLineSeries::new(points, 3, 4, INK.mix(0.5).stroke_width(1)))?;
        }
        // The champion last, on top.
        for (name, curve) in in_order(curves).into_iter().rev() {
            let width = if name == "champion" { 3 } else { 2 };
            let style = colour(name).stroke_width(width);
            chart.draw_series(LineSeries::new(of(curve).iter().copied(), style))?;
        }
        root.present()?;
    }
    Ok(labelled(&svg, frame.label))
}

/// Observed share over predicted probability in bins of equal mass, both in log-odds, with the
/// Wilson interval of each bin.
pub fn calibration(curves: &BTreeMap<String, Curves>, target: &str) -> String {
    let label = format!("calibration of {target} probabilities");
    let frame = Frame { x: "predicted (log-odds scale)", y: "observed", label: &label };
    finish(draw_calibration(&frame, curves))
}

fn draw_calibration(frame: &Frame<'_>, curves: &BTreeMap<String, Curves>) -> Drawn {
    let shown = || curves.values().flat_map(|curve| &curve.reliability);
    let ends = |bin: &Bin| [bin.predicted, kept_inside(bin.observed, bin.n)];
    let all: Vec<f64> = shown().flat_map(ends).map(log_odds).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min).clamp(-9.0, 8.0) - 0.4;
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max).clamp(-8.0, 9.0) + 0.4;
    let keys: Vec<f64> =
        [0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999]
            .into_iter()
            .map(log_odds)
            .filter(|key| (low..=high).contains(key))
            .collect();
    let axis = || Axis {
        ends: (low, high),
        ticks: keys.clone(),
        text: |x| {
            let text = format!("{:.2}", 100.0 / (1.0 + (-x).exp()));
            format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
        },
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = builder(&root).build_cartesian_2d(axis(), axis())?;
        draw_mesh(&mut chart, frame)?;
        let points = [(low, low), (high, high)];
        chart.draw_series(DashedLineSeries::new(points, 3, 4, INK.mix(0.6).stroke_width(1)))?;
        for (name, curve) in in_order(curves).into_iter().rev() {
            let own = colour(name);
            let strong = name == "champion";
            for bin in &curve.reliability {
                let x = log_odds(bin.predicted).clamp(low, high);
                let y = log_odds(kept_inside(bin.observed, bin.n)).clamp(low, high);
                if strong {
                    let [from, to] = wilson(bin).map(|p| log_odds(p).clamp(low, high));
                    let bar = PathElement::new([(x, from), (x, to)], own.stroke_width(1));
                    chart.draw_series([bar])?;
                }
                let size = if strong { 4 } else { 3 };
                chart.draw_series([Circle::new((x, y), size, own.mix(0.9).filled())])?;
            }
        }
        root.present()?;
    }
    Ok(labelled(&svg, frame.label))
}

/// False aborts over time waited on the dead, one mark a rule, both logarithmic.
pub fn timeouts(rules: &BTreeMap<String, LatencyRow>) -> String {
    let label = "false-abort ratio against mean dead wait of each timeout rule";
    let frame =
        Frame { x: "mean wait on the dead (log scale)", y: "false aborts (log scale)", label };
    finish(draw_timeouts(&frame, rules))
}

fn draw_timeouts(frame: &Frame<'_>, rules: &BTreeMap<String, LatencyRow>) -> Drawn {
    // A rule without a false abort stands where half a false abort would be.
    let mark = |row: &LatencyRow| {
        let floor = 0.5 / row.score.arrived.max(1) as f64;
        let wait = row.score.dead_wait_ms?.max(1.0);
        Some((wait.log10(), row.score.false_abort_ratio?.max(floor).log10()))
    };
    let marks: Vec<(&str, (f64, f64))> =
        in_order(rules).into_iter().filter_map(|(name, row)| Some((name, mark(row)?))).collect();
    if marks.is_empty() {
        return Ok(String::new());
    }
    let reach = |of: fn(&(f64, f64)) -> f64, margin: f64| {
        let values = || marks.iter().map(|(_, point)| of(point));
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        (low - margin, high + margin)
    };
    let (x, y) = (reach(|p| p.0, 0.25), reach(|p| p.1, 0.3));
    let steps = |(low, high): (f64, f64)| -> Vec<f64> {
        let ticks = |n: i32| [1.0_f64, 2.0, 5.0].map(|m| m.log10() + f64::from(n));
        (-8..8).flat_map(ticks).filter(|key| (low..=high).contains(key)).collect()
    };
    let across = Axis {
        ends: x,
        ticks: steps(x),
        text: |x| {
            let ms = 10_f64.powf(x);
            let seconds = (ms / 100.0).round() / 10.0;
            if ms >= 999.0 { format!("{seconds} s") } else { format!("{ms:.0} ms") }
        },
    };
    let up = Axis {
        ends: y,
        ticks: steps(y),
        text: |y| format!("{} %", (10_f64.powf(y) * 1e6).round() / 1e4),
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (680, 400)).into_drawing_area();
        let mut chart = builder(&root).y_label_area_size(70).build_cartesian_2d(across, up)?;
        draw_mesh(&mut chart, frame)?;
        for (name, point) in marks {
            let size = if name == "champion" { 8 } else { 6 };
            chart.draw_series([Circle::new(point, size, colour(name).filled())])?;
        }
        root.present()?;
    }
    Ok(labelled(&svg, frame.label))
}

fn builder<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(root);
    builder.margin(8).margin_right(16).x_label_area_size(48).y_label_area_size(64);
    builder
}

/// Grid, axes and their titles.
fn draw_mesh(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<Axis, Axis>>,
    frame: &Frame<'_>,
) -> Drawn<()> {
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .x_desc(frame.x)
        .y_desc(frame.y)
        .draw()?;
    Ok(())
}

/// The 95 % Wilson interval of a bin's observed share.
fn wilson(bin: &Bin) -> [f64; 2] {
    let (n, z) = (bin.n as f64, 1.96_f64);
    let centre = bin.observed + z * z / (2.0 * n);
    let half = z * (bin.observed * (1.0 - bin.observed) / n + z * z / (4.0 * n * n)).sqrt();
    [-half, half].map(|side| (centre + side) / (1.0 + z * z / n))
}

/// A share that has log-odds: half a row of each class at least.
fn kept_inside(share: f64, n: usize) -> f64 {
    let least = 0.5 / n.max(1) as f64;
    share.clamp(least, 1.0 - least)
}

fn log_odds(p: f64) -> f64 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}

/// Gives the drawing a name for those who do not see it, and lets the page set its size.
fn labelled(svg: &str, label: &str) -> String {
    svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1)
}

/// A drawing into memory does not fail; if it ever does, the page says so and stands.
fn finish(drawn: Drawn) -> String {
    drawn.unwrap_or_else(|_| "<p>This plot could not be drawn.</p>".to_owned())
}
