//! What the cache can build: artifacts, and images made of them.

use crate::cache::{Artifact, CacheError, Id};
use crate::{Digest, Environment, HostError, ImageStore, Progress, ToolError};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

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

/// What is told about an artifact beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Artifacts it was made from: kept as long as it is, to build its successor
    /// quickly.
    pub(crate) inputs: Vec<Id>,
    /// Variables for the programs that run from it.
    pub(crate) environment: Environment,
}

/// One build under way.
pub struct Job<'a> {
    /// An empty directory: what is in it at the end is the artifact.
    pub out: PathBuf,
    /// An empty directory on the same disk, deleted at the end.
    pub work: PathBuf,
    /// Who wants to know.
    pub progress: &'a mut dyn Progress,
    store: &'a ImageStore,
    inputs: Vec<Artifact>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        out: PathBuf,
        work: PathBuf,
        progress: &'a mut dyn Progress,
        store: &'a ImageStore,
    ) -> Self {
        Self {
            out,
            work,
            progress,
            store,
            inputs: Vec::new(),
        }
    }

    /// The directory of another artifact that this one is made from, built now
    /// if need be.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn input(&mut self, recipe: &dyn Recipe) -> Result<PathBuf, BuildError> {
        let input = self.store.artifact(recipe, self.progress);
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

/// Why an artifact could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file operation of ours failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The machine lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An artifact it is made from could not be had.
    #[error(transparent)]
    Input(#[from] Box<CacheError>),
}

impl BuildError {
    /// For `map_err`: the operation that failed and on what.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// Whether the disk was full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Tool(error) => matches!(error, ToolError::DiskFull { .. }),
            Self::File { source, .. } => crate::cache::is_disk_full(source),
            Self::Host(_) | Self::Input(_) => false,
        }
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
