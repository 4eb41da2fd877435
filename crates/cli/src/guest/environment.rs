//! The environment variables of an image's programs.

use hyperfork_image::ImageStore;

/// The variables of the image of this name; none if the image was removed meanwhile, or was
/// never in the cache.
pub(crate) fn environment_of(image: &str) -> Vec<(String, String)> {
    let images = ImageStore::default_root()
        .and_then(|root| ImageStore::open(&root))
        .and_then(|store| store.list());
    let mut images = images.into_iter().flatten();
    let known = images.find(|known| known.name == image);
    known.map_or_else(Vec::new, |known| known.environment.env)
}

/// Sets variables on top of others; a name is there once.
pub(crate) fn set(env: &mut Vec<(String, String)>, more: Vec<(String, String)>) {
    for (name, value) in more {
        env.retain(|(there, _)| *there != name);
        env.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_variables_win() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut env = vec![pair("A", "1"), pair("B", "1")];
        set(&mut env, vec![pair("A", "2"), pair("A", "3")]);
        assert_eq!(env, [pair("B", "1"), pair("A", "3")]);
    }
}
