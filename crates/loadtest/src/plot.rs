//! The plot: how one round went over time, or what came of several rates. Turns numbers into an SVG file; what they mean
//! is decided where they are measured.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use herald_chassis::BoxError;
use herald_loadtest::Progress;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::{
    BLUE, DrawingArea, DrawingBackend, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement, RED,
    RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::steps::Step;

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 240;
const COLOURS: [RGBColor; 2] = [BLUE, RED];
/// What a latency of less is drawn as: a logarithm of 0 is none.
const LATENCY_MIN_MS: f64 = 0.1;

/// Lines over the same axis.
struct Panel {
    title: &'static str,
    is_logarithmic: bool,
    lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// How one round went, second by second.
pub(crate) fn of_time(path: &Path, seconds: &[Progress]) -> Result<(), BoxError> {
    let rate = |count: fn(&Progress) -> u64| {
        let pairs = seconds.iter().zip(seconds.iter().skip(1));
        let grown = |(sooner, later): (&Progress, &Progress)| {
            let (passed, count) =
                (later.seconds - sooner.seconds, count(later).saturating_sub(count(sooner)));
            (later.seconds, count as f64 / passed.max(1e-3))
        };
        pairs.map(grown).collect()
    };
    let latency = |of: fn(&Progress) -> f64| {
        // a second without deliveries has none
        let known = seconds.iter().filter(|now| of(now) > 0.0);
        known.map(|now| (now.seconds, of(now))).collect()
    };
    let panels = [
        Panel::linear("messages published in a second", vec![("offered", rate(|now| now.offered))]),
        Panel::linear("deliveries in a second", vec![("received", rate(|now| now.received))]),
        Panel::latency(latency(|now| now.p50_ms), latency(|now| now.p99_ms)),
    ];
    draw(path, "seconds", &panels)
}

/// What came of the rates that were tried.
pub(crate) fn of_rates(path: &Path, steps: &[Step]) -> Result<(), BoxError> {
    let line = |of: fn(&Step) -> f64| {
        let mut points: Vec<(f64, f64)> = steps.iter().map(|step| (step.rate, of(step))).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    };
    let panels = [
        Panel::linear(
            "deliveries in a second",
            vec![("received", line(|step| step.report.delivered_per_second))],
        ),
        Panel::latency(line(|step| step.report.latency.p50), line(|step| step.report.latency.p99)),
    ];
    draw(path, "messages offered in a second", &panels)
}

impl Panel {
    fn linear(title: &'static str, lines: Vec<(&'static str, Vec<(f64, f64)>)>) -> Self {
        Self { title, is_logarithmic: false, lines }
    }

    fn latency(p50: Vec<(f64, f64)>, p99: Vec<(f64, f64)>) -> Self {
        Self {
            title: "latency from the schedule, ms",
            is_logarithmic: true,
            lines: vec![("p50", p50), ("p99", p99)],
        }
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.lines.iter().flat_map(|(_, points)| points.iter().copied())
    }
}

fn draw(path: &Path, x: &str, panels: &[Panel]) -> Result<(), BoxError> {
    let size = (WIDTH, PANEL_HEIGHT * panels.len() as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).map_err(told)?;
    let all = || panels.iter().flat_map(Panel::points).map(|(x, _)| x);
    let (first, last) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    // a run too short for a point has axes all the same
    let range = first.min(last)..last.max(first.min(last) + 1.0);
    for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        let top = panel.points().map(|(_, y)| y).fold(1.0, f64::max) * 1.1;
        if panel.is_logarithmic {
            lines(area, panel, (x, range.clone()), (LATENCY_MIN_MS..top.max(10.0)).log_scale())?;
        } else {
            lines(area, panel, (x, range.clone()), 0.0..top)?;
        }
    }
    root.present().map_err(told)
}

fn lines<B, Y>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    (x, range): (&str, Range<f64>),
    y: Y,
) -> Result<(), BoxError>
where
    B: DrawingBackend,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(80)
        .build_cartesian_2d(range, y)
        .map_err(told)?;
    chart.configure_mesh().x_desc(x).draw().map_err(told)?;
    for ((name, points), colour) in panel.lines.iter().zip(COLOURS) {
        let drawn =
            points.iter().map(|(x, y)| (*x, if panel.is_logarithmic { y.max(LATENCY_MIN_MS) } else { *y }));
        chart
            .draw_series(LineSeries::new(drawn, &colour))
            .map_err(told)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE).draw().map_err(told)
}

/// Its errors name the backend's type, which is not for everybody to know.
fn told(error: impl Display) -> BoxError {
    format!("cannot draw the plot: {error}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seconds: &[Progress]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        of_time(&path, seconds).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn each_second_is_a_point_of_each_line() {
        let second = |n: u64| Progress {
            second: n,
            seconds: n as f64,
            offered: 100 * n,
            received: 1_000 * n,
            p50_ms: 1.0,
            p99_ms: 200.0,
            ..Progress::default()
        };
        let svg = drawn(&(0..10).map(second).collect::<Vec<_>>());
        for text in ["messages published in a second", "latency from the schedule, ms", "p99", "seconds"] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        // a rate is between two seconds, a percentile of each
        let longest = |svg: &str| {
            svg.split("points=\"")
                .skip(1)
                .map(|line| line.split('"').next().unwrap().split(' ').count())
                .max()
        };
        assert!(longest(&svg) >= Some(9), "{:?}", longest(&svg));
    }

    #[test]
    fn a_run_without_a_second_has_empty_axes() {
        assert!(drawn(&[]).contains("deliveries in a second"));
    }
}
