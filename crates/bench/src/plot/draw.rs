//! Draws lines with error bars.

use crate::error::BenchError;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

/// A coordinate system and the lines in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    pub(super) title: String,
    pub(super) x: (&'static str, Scale, Unit),
    pub(super) y: (&'static str, Scale, Unit),
    pub(super) series: Vec<Series>,
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

/// A median and the bar through it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) low: f64,
    pub(super) middle: f64,
    pub(super) high: f64,
}

impl Point {
    /// Without a bar.
    pub(super) fn at(x: f64, y: f64) -> Self {
        Self {
            x,
            low: y,
            middle: y,
            high: y,
        }
    }
}

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Log2,
    Log10,
}

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    Microseconds,
    Kibibytes,
    Mebibytes,
}

/// Pixels of a panel and of the names of its lines, which are right of the last one.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 400;
const LEGEND_WIDTH: u32 = 250;

/// Okabe and Ito's colours: distinct also to colour-blind readers, and in grey.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Draws panels beside each other.
///
/// # Errors
/// [`BenchError::Plot`].
pub(super) fn draw(path: &Path, panels: &[Panel]) -> Result<(), BenchError> {
    let draw = || -> Result<(), Box<dyn Error>> {
        let width = WIDTH * panels.len() as u32;
        let area = SVGBackend::new(path, (width + LEGEND_WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let (drawn, legend) = area.split_horizontally(width);
        for (panel, area) in panels.iter().zip(drawn.split_evenly((1, panels.len()))) {
            panel.draw(&area)?;
        }
        if let Some(panel) = panels.last() {
            panel.draw_legend(&legend)?;
        }
        Ok(area.present()?)
    };
    draw().map_err(|error| BenchError::Plot {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl Panel {
    fn draw(&self, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        if points().next().is_none() {
            return Ok(());
        }
        let x = range(points().map(|point| point.x), self.x.1);
        let y = range(points().flat_map(|point| [point.low, point.high]), self.y.1);
        let (x, y) = (x.0..x.1, y.0..y.1);
        match (self.x.1.base(), self.y.1.base()) {
            (None, None) => self.draw_in(area, x, y),
            (Some(base), None) => self.draw_in(area, x.log_scale().base(base), y),
            (None, Some(base)) => self.draw_in(area, x, y.log_scale().base(base)),
            (Some(x_base), Some(y_base)) => {
                let x = x.log_scale().base(x_base);
                self.draw_in(area, x, y.log_scale().base(y_base))
            }
        }
    }

    fn draw_in<X, Y>(&self, area: &Area<'_>, x: X, y: Y) -> Result<(), Box<dyn Error>>
    where
        X: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
        Y: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
    {
        let mut builder = ChartBuilder::on(area);
        builder
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(88);
        if !self.title.is_empty() {
            builder.caption(&self.title, ("sans-serif", 19));
        }
        let mut chart = builder.build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 17))
            .x_desc(self.x.0)
            .y_desc(self.y.0)
            .x_label_formatter(&|value| self.x.2.show(*value))
            .y_label_formatter(&|value| self.y.2.show(*value))
            .draw()?;
        for (series, colour) in self.coloured() {
            let line = series.points.iter().map(|point| (point.x, point.middle));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            chart.draw_series(series.points.iter().map(|point| {
                let Point {
                    x,
                    low,
                    middle,
                    high,
                } = *point;
                ErrorBar::new_vertical(x, low, middle, high, colour.filled(), 7)
            }))?;
        }
        Ok(())
    }

    fn draw_legend(&self, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
        const LINE: i32 = 22;
        for ((series, colour), y) in self.coloured().zip((40..).step_by(LINE as usize)) {
            area.draw(&PathElement::new([(4, y), (24, y)], colour.stroke_width(2)))?;
            let style = ("sans-serif", 15).into_font();
            area.draw(&Text::new(series.name.clone(), (32, y - LINE / 3), style))?;
        }
        Ok(())
    }

    /// The lines, each with its colour.
    fn coloured(&self) -> impl Iterator<Item = (&Series, &'static RGBColor)> {
        self.series.iter().zip(COLOURS.iter().cycle())
    }
}

impl Scale {
    /// Of its logarithm.
    fn base(self) -> Option<f64> {
        match self {
            Self::Linear => None,
            Self::Log2 => Some(2.0),
            Self::Log10 => Some(10.0),
        }
    }
}

/// What an axis shows: all values and a little more; linear ones from zero.
fn range(values: impl Iterator<Item = f64> + Clone, scale: Scale) -> (f64, f64) {
    let positive = values.clone().filter(|value| *value > 0.0);
    let low = positive.fold(f64::INFINITY, f64::min);
    let high = values.fold(0.0, f64::max);
    match scale {
        Scale::Linear => (0.0, (high * 1.15).max(1.0)),
        _ if !low.is_finite() => (1.0, 10.0),
        Scale::Log2 => (low / 1.3, high * 1.3),
        Scale::Log10 => (low / 2.0, high * 2.0),
    }
}

impl Unit {
    /// A value on an axis, in the unit that suits it.
    fn show(self, value: f64) -> String {
        let steps: &[(f64, &str)] = match self {
            Self::Count => &[],
            Self::Microseconds => &[(1e6, "s"), (1e3, "ms"), (0.0, "µs")],
            Self::Kibibytes => &[(1048576.0, "GiB"), (1024.0, "MiB"), (0.0, "KiB")],
            Self::Mebibytes => &[(1024.0, "GiB"), (0.0, "MiB")],
        };
        match steps.iter().find(|(least, _)| value >= *least) {
            Some((least, unit)) => format!("{} {unit}", short(value / least.max(1.0))),
            None => short(value),
        }
    }
}

/// At most two digits behind the point, none that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_in_units_that_suit() {
        for (unit, value, text) in [
            (Unit::Microseconds, 0.0, "0 µs"),
            (Unit::Microseconds, 100.0, "100 µs"),
            (Unit::Microseconds, 2500.0, "2.5 ms"),
            (Unit::Microseconds, 1e6, "1 s"),
            (Unit::Mebibytes, 512.0, "512 MiB"),
            (Unit::Mebibytes, 2048.0, "2 GiB"),
            (Unit::Kibibytes, 1024.0, "1 MiB"),
            (Unit::Count, 64.0, "64"),
        ] {
            assert_eq!(unit.show(value), text);
        }
    }

    #[test]
    fn a_figure_has_its_labels_its_lines_and_their_bars() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.svg");
        let point = |x, middle| Point {
            x,
            low: middle / 2.0,
            middle,
            high: middle * 2.0,
        };
        let panel = |x, y| Panel {
            title: "A title".to_owned(),
            x: ("Memory", x, Unit::Mebibytes),
            y: ("Time", y, Unit::Microseconds),
            series: vec![
                Series {
                    name: "image".to_owned(),
                    points: vec![point(64.0, 900.0), point(512.0, 950.0)],
                },
                Series {
                    name: "boot".to_owned(),
                    points: vec![point(64.0, 90_000.0)],
                },
            ],
        };
        draw(
            &path,
            &[
                panel(Scale::Log2, Scale::Log10),
                panel(Scale::Linear, Scale::Linear),
            ],
        )
        .unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in [
            "A title", "Memory", "Time", "image", "boot", "512 MiB", "10 ms",
        ] {
            assert!(svg.contains(text), "{text} is not in\n{svg}");
        }
        // A dot for each point, twice.
        assert_eq!(svg.matches("<circle").count(), 6, "{svg}");
        assert_eq!(svg.matches("image").count(), 1, "one legend");
        draw(
            &path,
            &[Panel {
                series: Vec::new(),
                ..panel(Scale::Linear, Scale::Linear)
            }],
        )
        .unwrap();
    }
}
