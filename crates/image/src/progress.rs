//! How a build reports its progress, independent of terminals.

/// Receives a build's progress. Steps come one after the other, never nested;
/// a step that fails is started and not finished.
///
/// Nothing is reported when everything is in the cache.
pub trait Progress {
    /// A step has begun, such as `compiling the kernel`.
    fn started(&mut self, step: &str);
    /// The step has advanced: how far, from 0 to 1, if that is known,
    /// and what it is doing.
    fn advanced(&mut self, fraction: Option<f64>, detail: &str);
    /// The step is complete.
    fn finished(&mut self, step: &str);
}

/// Silence.
impl Progress for () {
    fn started(&mut self, _: &str) {}
    fn advanced(&mut self, _: Option<f64>, _: &str) {}
    fn finished(&mut self, _: &str) {}
}
