//! Recipes that take no time, for tests of what happens around recipes.
#![allow(clippy::unwrap_used)] // these are tests
#![allow(dead_code)] // each test program uses some of it

use hyperfork_image::{
    BuildError, Digest, Environment, Hasher, ImageRecipe, ImageStore, Job, Progress, Recipe,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a [`Fake`] does after its files are there.
pub(crate) type Then = Arc<dyn Fn(&mut Job<'_>) -> Result<(), BuildError> + Send + Sync>;

/// An artifact of small files.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) kind: &'static str,
    pub(crate) content: String,
    pub(crate) files: &'static [&'static str],
    pub(crate) input: Option<Box<Fake>>,
    pub(crate) space_needed: u64,
    pub(crate) then: Then,
}

impl Fake {
    pub(crate) fn kernel(content: &str) -> Self {
        Self {
            kind: "kernels",
            content: content.to_owned(),
            files: &["vmlinux", "bzImage"],
            input: None,
            space_needed: 1,
            then: Arc::new(|_| Ok(())),
        }
    }

    pub(crate) fn tree(content: &str) -> Self {
        Self {
            kind: "trees",
            files: &["root.tar"],
            ..Self::kernel(content)
        }
    }

    pub(crate) fn root(content: &str, tree: Fake) -> Self {
        Self {
            kind: "roots",
            files: &["rootfs.ext4"],
            input: Some(Box::new(tree)),
            ..Self::kernel(content)
        }
    }

    pub(crate) fn then(
        mut self,
        then: impl Fn(&mut Job<'_>) -> Result<(), BuildError> + Send + Sync + 'static,
    ) -> Self {
        self.then = Arc::new(then);
        self
    }
}

impl Recipe for Fake {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn title(&self) -> String {
        format!("a fake of {}", self.kind)
    }

    fn digest(&self) -> Digest {
        let mut inputs = Hasher::default();
        inputs.field("content", &self.content);
        if let Some(input) = &self.input {
            inputs.field("input", input.digest().to_string());
        }
        inputs.finish()
    }

    fn source_package(&self) -> Option<&str> {
        None
    }

    fn host_packages(&self) -> Vec<&str> {
        vec!["dpkg"]
    }

    fn space_needed(&self) -> u64 {
        self.space_needed
    }

    fn build(&self, job: &mut Job<'_>) -> Result<Environment, BuildError> {
        if let Some(input) = &self.input {
            job.input(input.as_ref())?;
        }
        let out = job.out.clone();
        job.step(&format!("making {}", self.kind), |_| {
            for file in self.files {
                let path = out.join(file);
                fs::write(&path, &self.content).map_err(BuildError::file("write", &path))?;
            }
            Ok(())
        })?;
        (self.then)(job)?;
        Ok(Environment {
            env: vec![("MADE_OF".to_owned(), self.content.clone())],
        })
    }
}

pub(crate) fn image(name: &str, kernel: Fake, rootfs: Fake) -> ImageRecipe {
    ImageRecipe {
        name: name.to_owned(),
        kernel: Box::new(kernel),
        rootfs: Box::new(rootfs),
    }
}

/// An image whose three artifacts are all made of `content`.
pub(crate) fn simple(name: &str, content: &str) -> ImageRecipe {
    let rootfs = Fake::root(content, Fake::tree(content));
    image(name, Fake::kernel(content), rootfs)
}

pub(crate) fn store(root: &Path, images: Vec<ImageRecipe>) -> ImageStore {
    ImageStore::with_recipes(root, images).unwrap()
}

/// Remembers what was reported.
#[derive(Default)]
pub(crate) struct Steps(pub(crate) Vec<String>);

impl Progress for Steps {
    fn started(&mut self, step: &str) {
        self.0.push(step.to_owned());
    }
    fn advanced(&mut self, _: Option<f64>, _: &str) {}
    fn finished(&mut self, _: &str) {}
}

/// The artifacts of a kind that can be seen in the cache.
pub(crate) fn artifacts(root: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(kind)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Whether the cache holds no image, no artifact and nothing temporary.
pub(crate) fn is_empty(root: &Path) -> bool {
    ["images", "kernels", "trees", "roots", "tmp"]
        .iter()
        .all(|kind| artifacts(root, kind).is_empty())
}

/// An error as the command line shows it: with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
