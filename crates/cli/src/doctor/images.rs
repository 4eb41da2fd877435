//! Whether images can be built.

use super::Check;
use hyperfork_image::ImageStore;

/// Packages that builds need. Images that are there already need none.
pub(super) fn checks() -> Vec<Check> {
    const NAME: &str = "image build";
    let store = ImageStore::default_root().and_then(|root| ImageStore::open(&root));
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            return vec![Check::warning(
                NAME,
                error.to_string(),
                "set XDG_CACHE_HOME",
            )];
        }
    };
    vec![match store.missing_packages() {
        Ok(missing) if missing.is_empty() => Check::ok(NAME, "all packages it needs are there"),
        Ok(missing) => {
            let packages = missing.join(" ");
            Check::warning(
                NAME,
                format!("packages are missing: {packages}"),
                format!("a build as root installs them; or: sudo apt-get install -y {packages}"),
            )
        }
        Err(error) => Check::warning(NAME, error.to_string(), "build images on a Debian machine"),
    }]
}
