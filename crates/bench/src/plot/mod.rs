//! Writes plots as SVG, and the same values as CSV.
//!
//! Only SVG: it is sharp at any size and leaves its text to the viewer's fonts. A
//! bitmap would need fonts of the system, and a library to find them.

mod draw;
mod figures;

use crate::cow::CowRow;
use crate::csv::csv;
use crate::density::DensityRow;
use crate::error::BenchError;
use crate::fork::ForkRow;
use crate::journal::{Document, Plan, Row};
use crate::soak::SoakRow;
use draw::{Panel, draw};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A row that knows its figure.
pub trait Figure: Row {
    /// The figure's panels, from left to right.
    #[doc(hidden)]
    fn panels(rows: &[Self]) -> Vec<Panel>;
}

impl Figure for ForkRow {
    fn panels(rows: &[Self]) -> Vec<Panel> {
        figures::fork(rows)
    }
}

impl Figure for CowRow {
    fn panels(rows: &[Self]) -> Vec<Panel> {
        figures::cow(rows)
    }
}

impl Figure for DensityRow {
    fn panels(rows: &[Self]) -> Vec<Panel> {
        figures::density(rows)
    }
}

impl Figure for SoakRow {
    fn panels(rows: &[Self]) -> Vec<Panel> {
        figures::soak(rows)
    }
}

/// Writes `<experiment>.svg` and `<experiment>.csv` into `directory`, which is made
/// if missing. Gives their paths.
///
/// # Errors
/// [`BenchError::Io`], [`BenchError::Plot`].
pub fn plot<P: Plan<Row: Figure>>(
    document: &Document<P, P::Row>,
    directory: &Path,
) -> Result<[PathBuf; 2], BenchError> {
    fs::create_dir_all(directory).map_err(BenchError::io("make", directory))?;
    let [svg, table] = ["svg", "csv"].map(|extension| {
        directory
            .join(document.plan.bench())
            .with_extension(extension)
    });
    draw(&svg, &P::Row::panels(&document.rows))?;
    File::create(&table)
        .and_then(|file| csv(&document.rows, file))
        .map_err(BenchError::io("write", &table))?;
    Ok([svg, table])
}
