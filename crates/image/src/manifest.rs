//! The images in the cache: which artifacts each is made of.

use crate::CacheError;
use crate::cache::{Cache, Id, Scratch, names, write_durably};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

/// What `images/<name>.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) kernel: Id,
    pub(crate) rootfs: Id,
    pub(crate) created_unix_s: u64,
}

impl Cache {
    /// The manifest of an image that is there with all its files. One that
    /// cannot be understood, as another version of this program may have written
    /// it, is as good as none: this is a cache.
    pub(crate) fn manifest(&self, name: &str) -> Result<Option<Manifest>, CacheError> {
        let path = self.manifest_path(name);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(CacheError::file("read", &path))?,
        };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else {
            return Ok(None);
        };
        let is_whole = self.has(&manifest.kernel)? && self.has(&manifest.rootfs)?;
        Ok(is_whole.then_some(manifest))
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write_manifest(&self, name: &str, manifest: &Manifest) -> Result<(), CacheError> {
        let id = Id {
            kind: "images".to_owned(),
            key: name.to_owned(),
        };
        let lock = self.lock_file(&id)?;
        self.lock(&lock, FlockOperation::LockExclusive)?;
        let scratch: Scratch = self.scratch(&id)?;
        let file = scratch.path().join("manifest");
        write_durably(&file, manifest)?;
        self.put(&file, &self.manifest_path(name))
    }

    /// Removes it; `false` where there was none.
    pub(crate) fn remove_manifest(&self, name: &str) -> Result<bool, CacheError> {
        let path = self.manifest_path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CacheError::file("remove", &path)(error)),
        }
    }

    /// The names of all images, sorted.
    pub(crate) fn images(&self) -> Vec<String> {
        let mut images: Vec<String> = names(&self.root().join("images"))
            .into_iter()
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect();
        images.sort();
        images
    }

    /// All artifacts that images are made of, or were made from.
    pub(crate) fn used(&self) -> Result<HashSet<Id>, CacheError> {
        let mut todo = Vec::new();
        for name in self.images() {
            if let Some(manifest) = self.manifest(&name)? {
                todo.extend([manifest.kernel, manifest.rootfs]);
            }
        }
        let mut used = HashSet::new();
        while let Some(id) = todo.pop() {
            if used.insert(id.clone()) {
                let meta = self.meta(&id)?.unwrap_or_default();
                todo.extend(meta.inputs);
            }
        }
        Ok(used)
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.root().join("images").join(format!("{name}.json"))
    }
}
