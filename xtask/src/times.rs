//! A table of the seconds that each step and the slowest test programs took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many test programs the table lists.
const SLOWEST: usize = 10;

struct Times {
    /// What was begun when, one after the other.
    steps: Vec<(String, Instant)>,
    programs: Vec<(String, Duration)>,
}

static TIMES: Mutex<Times> = Mutex::new(Times {
    steps: Vec::new(),
    programs: Vec::new(),
});

fn times() -> MutexGuard<'static, Times> {
    TIMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step begins, and so the one before has ended.
pub(crate) fn step(what: &str) {
    times().steps.push((what.to_owned(), Instant::now()));
}

/// A test program has taken so long.
pub(crate) fn program(title: &str, took: Duration) {
    times().programs.push((title.to_owned(), took));
}

/// Prints the table.
pub(crate) fn tell() {
    let mut times = times();
    let Times { steps, programs } = &mut *times;
    println!("\nseconds  step");
    let ends = steps.iter().skip(1).map(|(_, begun)| *begun);
    for ((what, begun), end) in steps.iter().zip(ends.chain([Instant::now()])) {
        println!("{:7.1}  {what}", (end - *begun).as_secs_f64());
    }
    programs.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    println!("\nseconds  test program, the slowest");
    for (title, took) in programs.iter().take(SLOWEST) {
        println!("{:7.1}  {title}", took.as_secs_f64());
    }
}
