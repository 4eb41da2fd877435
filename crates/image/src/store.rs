//! The image store: builds, finds, lists and removes images by name.

use crate::cache::{Artifact, Cache, Id, Meta, Order};
use crate::manifest::Manifest;
use crate::recipe::Artifacts;
use crate::{
    CacheError, Hasher, HostError, Image, ImageRecipe, Job, Progress, Recipe, host, known,
};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no recipe of this name.
    #[error("there is no image '{name}'; known images: {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: Vec<String>,
    },
    /// It is not built, so it cannot be removed.
    #[error("image '{0}' is not built; see: hyperfork image ls")]
    NotBuilt(String),
    /// Neither `XDG_CACHE_HOME` nor a home directory is known.
    #[error("no cache directory: set XDG_CACHE_HOME or HOME")]
    NoCacheDirectory,
    /// The cache could not deliver.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// The images of one user.
pub struct ImageStore {
    cache: Cache,
    recipes: Vec<ImageRecipe>,
}

/// Kinds that are collected when an image is replaced. Its old kernel and tree
/// wait for `rm`: another version of this program may soon want them again, and
/// they take minutes to make.
const QUICK_KINDS: [&str; 1] = ["roots"];
const ALL_KINDS: [&str; 3] = ["roots", "trees", "kernels"];

impl ImageStore {
    /// Opens the cache under `root` (created if absent) and clears away what
    /// builds that were killed have left there.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        Self::with_recipes(root, known::images())
    }

    /// As [`ImageStore::open`], with recipes of one's own.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn with_recipes(root: &Path, recipes: Vec<ImageRecipe>) -> Result<Self, ImageError> {
        let cache = Cache::open(root)?;
        Ok(Self { cache, recipes })
    }

    /// Where images are cached: `$XDG_CACHE_HOME/hyperfork`, or
    /// `~/.cache/hyperfork` (XDG base directory specification: a relative path
    /// does not count).
    ///
    /// # Errors
    /// Neither is known.
    pub fn default_root() -> Result<PathBuf, ImageError> {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        std::env::var_os("XDG_CACHE_HOME")
            .and_then(|path| absolute(path.into()))
            .or_else(|| Some(absolute(std::env::home_dir()?)?.join(".cache")))
            .map(|cache| cache.join("hyperfork"))
            .ok_or(ImageError::NoCacheDirectory)
    }

    /// The names of the images there are recipes for.
    pub fn known(&self) -> Vec<&str> {
        self.recipes.iter().map(|r| r.name.as_str()).collect()
    }

    /// The distribution's packages that building images needs and this machine
    /// lacks, by name.
    ///
    /// # Errors
    /// The machine cannot be asked.
    pub fn missing_packages(&self) -> Result<Vec<String>, HostError> {
        let recipes = self.recipes.iter();
        let parts = recipes.flat_map(|image| [&image.kernel, &image.rootfs]);
        let mut packages: Vec<&str> = parts.flat_map(|part| part.host_packages()).collect();
        packages.sort_unstable();
        packages.dedup();
        host::missing(&packages)
    }

    /// Builds the image from its recipe and the packages on this machine, unless the cache has it
    /// already.
    ///
    /// # Errors
    /// No such recipe, or it cannot be built; what was there before stays.
    pub fn build(&self, name: &str, progress: &mut dyn Progress) -> Result<Image, ImageError> {
        let recipe = self.recipe(name)?;
        // Held until the manifest names them, so that no other process collects them.
        let kernel = self.artifact(recipe.kernel.as_ref(), progress)?;
        let rootfs = self.artifact(recipe.rootfs.as_ref(), progress)?;
        let old = self.cache.manifest(name)?;
        let manifest = match old {
            Some(old) if &old.kernel == kernel.id() && &old.rootfs == rootfs.id() => old,
            _ => {
                let manifest = Manifest {
                    kernel: kernel.id().clone(),
                    rootfs: rootfs.id().clone(),
                    created_unix_s: now(),
                };
                self.cache.write_manifest(name, &manifest)?;
                self.cache.collect(&QUICK_KINDS)?;
                manifest
            }
        };
        self.image(name, &manifest)
    }

    /// The image as it was built, if it was built by this recipe; never builds. Unlike
    /// [`ImageStore::build`] it accepts an image from older packages than the machine has now.
    ///
    /// # Errors
    /// No such recipe, or the cache cannot be read.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let recipe = self.recipe(name)?;
        let Some(manifest) = self.cache.manifest(name)? else {
            return Ok(None);
        };
        let current =
            |recipe: &dyn Recipe, id: &Id| id.key.starts_with(&recipe.digest().to_string());
        let up_to_date = current(recipe.kernel.as_ref(), &manifest.kernel)
            && current(recipe.rootfs.as_ref(), &manifest.rootfs);
        match up_to_date {
            true => self.image(name, &manifest).map(Some),
            false => Ok(None),
        }
    }

    /// All images that are built, by name, also those whose recipe has changed
    /// since.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for name in self.cache.images() {
            if let Some(manifest) = self.cache.manifest(&name)? {
                images.push(self.image(&name, &manifest)?);
            }
        }
        Ok(images)
    }

    /// Removes an image, and from the cache all that no other image uses. VMs
    /// that run from it are not disturbed.
    ///
    /// # Errors
    /// It is not built, or cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        if !self.cache.remove_manifest(name)? {
            self.recipe(name)?;
            return Err(ImageError::NotBuilt(name.to_owned()));
        }
        self.cache.collect(&ALL_KINDS)?;
        Ok(())
    }

    /// What the recipe would make on this machine. Where the package it builds
    /// from is not installed, what it has made of any version.
    fn locate(&self, recipe: &dyn Recipe) -> Option<Id> {
        let digest = recipe.digest();
        let key = match recipe.source_package() {
            None => digest.to_string(),
            Some(package) => match host::version(package) {
                // Versions have no slash (Debian policy, 5.6.12), but may have a
                // colon, which some take for a separator in paths.
                Some(version) => format!("{digest}-{}", version.replace(':', "_")),
                None => return self.cache.newest(recipe.kind(), &digest.to_string()),
            },
        };
        Some(Id {
            kind: recipe.kind().to_owned(),
            key,
        })
    }

    fn recipe(&self, name: &str) -> Result<&ImageRecipe, ImageError> {
        let recipe = self.recipes.iter().find(|recipe| recipe.name == name);
        recipe.ok_or_else(|| ImageError::Unknown {
            name: name.to_owned(),
            known: self.known().into_iter().map(str::to_owned).collect(),
        })
    }

    fn image(&self, name: &str, manifest: &Manifest) -> Result<Image, ImageError> {
        let (kernels, roots) = (
            self.cache.path(&manifest.kernel),
            self.cache.path(&manifest.rootfs),
        );
        let (kernel, bzimage) = (kernels.join("vmlinux"), kernels.join("bzImage"));
        let rootfs = roots.join("rootfs.ext4");
        let meta = self.cache.meta(&manifest.rootfs)?;
        let meta = meta.ok_or_else(|| self.cache.vanished(&manifest.rootfs))?;
        let digest = Hasher::default()
            .field("kernel", &manifest.kernel.key)
            .field("rootfs", &manifest.rootfs.key)
            .finish();
        // Blocks of 512 bytes (stat(2)): a sparse disk takes less than its size.
        let on_disk = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
        Ok(Image {
            name: name.to_owned(),
            digest: digest.to_string(),
            size_bytes: [&kernel, &bzimage, &rootfs].map(on_disk).iter().sum(),
            kernel,
            bzimage,
            rootfs,
            environment: meta.environment,
            created_unix_s: manifest.created_unix_s,
        })
    }
}

impl Artifacts for ImageStore {
    fn artifact(
        &self,
        recipe: &dyn Recipe,
        progress: &mut dyn Progress,
    ) -> Result<Artifact, CacheError> {
        if let Some(id) = self.locate(recipe)
            && let Some(artifact) = self.cache.find(&id)?
        {
            return Ok(artifact);
        }
        let packages = recipe.host_packages();
        host::require(&packages, progress)?;
        let id = self.locate(recipe).ok_or_else(|| {
            HostError::PackagesMissing(packages.iter().map(|name| (*name).to_owned()).collect())
        })?;
        let title = recipe.title();
        let order = Order {
            id: &id,
            title: &title,
            space_needed: recipe.space_needed(),
        };
        self.cache.ensure(&order, progress, |out, work, progress| {
            let mut job = Job::new(out, work, progress, self);
            let environment = recipe.build(&mut job)?;
            Ok(Meta {
                inputs: job.inputs(),
                environment,
            })
        })
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
