//! Ratios over what is in flight, or latencies over the rate of arrivals, as SVG.

use anyhow::Context as _;
use plotters::prelude::*;

use super::report::{Medians, Report};
use super::targets::Kinds;

const SIZE: (u32, u32) = (760, 460);
const INK: RGBColor = RGBColor(60, 66, 75);
const GRID: RGBColor = RGBColor(228, 231, 236);
const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(11, 87, 164);
const BARE: RGBColor = RGBColor(180, 83, 9);
const ALONE: RGBColor = RGBColor(21, 128, 96);

struct Line {
    name: &'static str,
    colour: RGBColor,
    dashed: bool,
    of: fn(&Medians) -> f64,
}

const RATIOS: [Line; 2] = [
    Line { name: "to the bare protocol", colour: BARE, dashed: false, of: |m| m.ratio_to_bare },
    Line {
        name: "to every transaction alone",
        colour: ALONE,
        dashed: false,
        of: |m| m.ratio_to_uncoalesced,
    },
];
const LATENCIES: [Line; 6] = [
    Line { name: "presume, median", colour: OURS, dashed: false, of: |m| m.p50_ms },
    Line { name: "presume, 99th percentile", colour: OURS, dashed: true, of: |m| m.p99_ms },
    Line { name: "bare, median", colour: BARE, dashed: false, of: |m| m.bare_p50_ms },
    Line { name: "bare, 99th percentile", colour: BARE, dashed: true, of: |m| m.bare_p99_ms },
    Line { name: "alone, median", colour: ALONE, dashed: false, of: |m| m.uncoalesced_p50_ms },
    Line {
        name: "alone, 99th percentile",
        colour: ALONE,
        dashed: true,
        of: |m| m.uncoalesced_p99_ms,
    },
];

/// The whole file.
pub(super) fn draw(report: &Report) -> anyhow::Result<String> {
    let open = report.arrivals.is_some();
    let (x, y, lines): (_, _, &[Line]) = if open {
        ("arrivals a second", "latency from the intended start (ms)", &LATENCIES)
    } else {
        ("transfers in flight", "committed transfers a second, ratio", &RATIOS)
    };
    let at = |m: &Medians| m.rate.unwrap_or(m.in_flight as f64);
    let mut medians: Vec<&Medians> = report.medians.iter().collect();
    medians.sort_by(|a, b| at(a).total_cmp(&at(b)));
    let series: Vec<(&Line, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|line| (line, medians.iter().map(|m| (at(m), (line.of)(m))).collect()))
        .collect();
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let title = format!(
        "{} participants, {}, {} reading; declines {} %; predictions {}",
        report.participant_count,
        match report.participants {
            Kinds::Embedded => "embedded ledgers",
            Kinds::Postgres => "PostgreSQL",
            Kinds::Mixed => "PostgreSQL and MariaDB",
        },
        report.read_only,
        report.declines_percent,
        if report.predictions == "off" { "off" } else { "on" },
    );
    let (across, up) = (reach(points().map(|point| point.0)), reach(points().map(|p| p.1)));
    // The legend stands above all lines.
    let room = 0.1 * lines.len() as f64;
    let up = (up.0, up.1 * (up.1 / up.0).powf(room));
    paint(&title, [x, y], [across, up], &series)
        .map_err(|why| anyhow::anyhow!("{why}"))
        .context("cannot draw")
}

/// Ends of a logarithmic axis around these values; what is not above zero is left out.
fn reach(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let shown = values.filter(|value| value.is_finite() && *value > 0.0);
    let ends = shown.fold(None, |ends: Option<(f64, f64)>, value| {
        Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    });
    let (low, high) = ends.unwrap_or((1.0, 10.0));
    (low / 1.3, high * 1.3)
}

type Drawn = Result<String, Box<dyn std::error::Error + Send + Sync>>;

fn paint(
    title: &str,
    [x, y]: [&str; 2],
    [across, up]: [(f64, f64); 2],
    series: &[(&Line, Vec<(f64, f64)>)],
) -> Drawn {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .margin_right(24)
            .x_label_area_size(52)
            .y_label_area_size(72)
            .caption(title, (FONT, 16).into_font().color(&INK))
            .build_cartesian_2d((across.0..across.1).log_scale(), (up.0..up.1).log_scale())?;
        let text = |value: &f64| short(*value);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style((FONT, 14).into_font().color(&INK))
            .axis_desc_style((FONT, 15).into_font().color(&INK))
            .x_desc(format!("{x} (log scale)"))
            .y_desc(format!("{y} (log scale)"))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&text)
            .y_label_formatter(&text)
            .draw()?;
        for (line, points) in series {
            let shown: Vec<_> =
                points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect();
            let (colour, style) = (line.colour, line.colour.stroke_width(2));
            let drawn = if line.dashed {
                chart.draw_series(DashedLineSeries::new(shown.clone(), 5, 4, style))?
            } else {
                chart.draw_series(LineSeries::new(shown.clone(), style))?
            };
            let dashed = line.dashed;
            drawn.label(line.name).legend(move |(x, y)| {
                // As wide as the line's dash, so that the two of a colour differ.
                let to = if dashed { x + 8 } else { x + 18 };
                PathElement::new([(x, y), (to, y)], colour.stroke_width(2))
            });
            chart.draw_series(shown.iter().map(|at| Circle::new(*at, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font((FONT, 13).into_font().color(&INK))
            .draw()?;
        root.present()?;
    }
    let label = format!("<svg role=\"img\" aria-label=\"{y} over {x}: {title}\" ");
    Ok(svg.replacen("<svg ", &label, 1))
}

fn short(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
