//! Builds images into the user's cache, telling its steps a line each:
//! `cargo run -p hyperfork-image --example build -- base python`.

use hyperfork_image::{ImageError, ImageStore, Progress};
use std::time::Instant;

/// When the step began and how often it reported progress.
struct Lines(Instant, usize);

impl Progress for Lines {
    fn started(&mut self, step: &str) {
        *self = Self(Instant::now(), 0);
        println!("{step} ...");
    }

    fn advanced(&mut self, _: Option<f64>, _: &str) {
        self.1 += 1;
    }

    fn finished(&mut self, step: &str) {
        let seconds = self.0.elapsed().as_secs_f64();
        println!("{step}: {seconds:.1} s, {} lines", self.1);
    }
}

fn main() -> Result<(), ImageError> {
    let store = ImageStore::open(&ImageStore::default_root()?)?;
    for name in std::env::args().skip(1) {
        let image = store.build(&name, &mut Lines(Instant::now(), 0))?;
        println!("{image:#?}");
    }
    Ok(())
}
