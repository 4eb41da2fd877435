//! The environment variables of an image's programs.

use hyperfork_image::{Environment, ImageStore};
use hyperfork_vmm::kvm::{Host, HostKind};

/// An image's variables on this host.
pub(crate) fn on_this_host(environment: &Environment, host: HostKind) -> Vec<(String, String)> {
    environment.on(host == HostKind::Pvm).cloned().collect()
}

/// The variables of the image of this name; none if the image was removed meanwhile, or was
/// never in the cache.
pub(crate) fn environment_of(image: &str) -> Vec<(String, String)> {
    let images = ImageStore::default_root()
        .and_then(|root| ImageStore::open(&root))
        .and_then(|store| store.list());
    let Some(image) = images
        .into_iter()
        .flatten()
        .find(|known| known.name == image)
    else {
        return Vec::new();
    };
    let host = Host::open().map_or(HostKind::Hardware, |host| host.kind());
    on_this_host(&image.environment, host)
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
