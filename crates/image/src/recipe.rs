//! Recipes: the artifacts that the cache can build, and the images made of them.

use crate::cache::{Artifact, Id};
use crate::{BuildError, CacheError, Digest, Environment, Progress};
use std::path::PathBuf;

/// How to make one artifact: a directory of files, determined by its inputs.
pub trait Recipe: Send + Sync {
    /// The directory of the cache it belongs to, such as `kernels`.
    fn kind(&self) -> &'static str;

    /// What to call it in messages, such as `the kernel`.
    fn title(&self) -> String;

    /// Digest of all inputs known without looking at this machine.
    fn digest(&self) -> Digest;

    /// The distribution's package whose content is an input, if any. Its version
    /// becomes part of the artifact's key.
    fn source_package(&self) -> Option<&str>;

    /// The distribution's packages the build needs on this machine.
    fn host_packages(&self) -> Vec<&str>;

    /// Disk space the build needs at its peak, bytes.
    fn space_needed(&self) -> u64;

    /// Builds the artifact's files into [`Job::out`]. Returns what the programs
    /// that run from it should find in their environment.
    ///
    /// # Errors
    /// Whatever stands in the way; the directories are then deleted.
    fn build(&self, job: &mut Job<'_>) -> Result<Environment, BuildError>;
}

/// Where a build gets the artifacts that it makes its own from.
pub(crate) trait Artifacts {
    /// An artifact, built now if it is not there.
    ///
    /// # Errors
    /// It cannot be built.
    fn artifact(
        &self,
        recipe: &dyn Recipe,
        progress: &mut dyn Progress,
    ) -> Result<Artifact, CacheError>;
}

/// One build under way.
pub struct Job<'a> {
    /// An empty directory: what is in it at the end is the artifact.
    pub out: PathBuf,
    /// An empty directory on the same disk, deleted at the end.
    pub work: PathBuf,
    /// Receives the progress.
    pub progress: &'a mut dyn Progress,
    artifacts: &'a dyn Artifacts,
    inputs: Vec<Artifact>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        out: PathBuf,
        work: PathBuf,
        progress: &'a mut dyn Progress,
        artifacts: &'a dyn Artifacts,
    ) -> Self {
        Self {
            out,
            work,
            progress,
            artifacts,
            inputs: Vec::new(),
        }
    }

    /// The directory of another artifact that this one is made from, built now
    /// if need be.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn input(&mut self, recipe: &dyn Recipe) -> Result<PathBuf, BuildError> {
        let input = self.artifacts.artifact(recipe, self.progress);
        let input = input.map_err(Box::new)?;
        let path = input.path().to_owned();
        self.inputs.push(input);
        Ok(path)
    }

    /// All artifacts that were asked for.
    pub(crate) fn inputs(&self) -> Vec<Id> {
        self.inputs.iter().map(|input| input.id().clone()).collect()
    }

    /// Performs one step, reported as such.
    ///
    /// # Errors
    /// Those of the step.
    pub fn step<T>(
        &mut self,
        title: &str,
        step: impl FnOnce(&mut dyn Progress) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        self.progress.started(title);
        let result = step(self.progress)?;
        self.progress.finished(title);
        Ok(result)
    }
}

/// How to make an image.
pub struct ImageRecipe {
    /// Its name: `a-z 0-9 _ . -`.
    pub name: String,
    /// Makes `vmlinux` and `bzImage`.
    pub kernel: Box<dyn Recipe>,
    /// Makes `rootfs.ext4`.
    pub rootfs: Box<dyn Recipe>,
}
