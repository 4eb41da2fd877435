//! The import graph of a crate: which file imports from which.
//!
//! A file imports from another where it names something that the other defines, by
//! whatever way: `use`, a path in the code, or a name that a third file re-exports with
//! `pub use`. Declaring a child (`mod child;`) and re-exporting its names are no imports,
//! nor is what a module takes from its parents (`super::…`): a reader reads a module and its
//! submodules together, and the parent defines what they have in common.

use super::modules::{self, Module};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// From a file to those it imports from, with the names it takes.
pub(super) type Imports = BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>;

/// The names looked up on the way, each with its module. No name is looked up twice:
/// modules may re-export each other's.
type Seen<'a> = HashSet<(usize, &'a str)>;

/// The imports between the files of the crate whose root is this file.
pub(super) fn of_crate(root: &Path) -> Result<Imports> {
    let modules = modules::read(root)?;
    let mut imports = Imports::new();
    for (number, module) in modules.iter().enumerate() {
        let own = imports.entry(module.file.clone()).or_default();
        for path in &module.paths {
            if let Some(Target::Item(file, name)) =
                resolve(&modules, number, path, &mut Seen::new())
                && !is_within(&modules, number, file)
            {
                own.entry(file.to_owned()).or_default().insert(name);
            }
        }
    }
    Ok(imports)
}

/// Whether a module is in this file, or in a module that is.
fn is_within(modules: &[Module], module: usize, file: &Path) -> bool {
    let mut outwards = std::iter::successors(Some(module), |&module| modules[module].parent);
    outwards.any(|module| modules[module].file == file)
}

/// What a path leads to.
enum Target<'a> {
    Module(usize),
    /// Something defined in this file, and what it is called there.
    Item(&'a Path, String),
}

/// Follows a path as it is written in a module; nothing where it leads out of the crate.
fn resolve<'a>(
    modules: &'a [Module],
    from: usize,
    path: &'a [String],
    seen: &mut Seen<'a>,
) -> Option<Target<'a>> {
    match path.first()?.as_str() {
        "crate" => follow(modules, 0, &path[1..], seen),
        "self" => follow(modules, from, &path[1..], seen),
        "super" => {
            let mut module = modules[from].parent?;
            let mut rest = &path[1..];
            while rest.first().is_some_and(|name| name == "super") {
                module = modules[module].parent?;
                rest = &rest[1..];
            }
            follow(modules, module, rest, seen)
        }
        _ => follow(modules, from, path, seen),
    }
}

/// Follows a path from inside a module.
fn follow<'a>(
    modules: &'a [Module],
    at: usize,
    path: &'a [String],
    seen: &mut Seen<'a>,
) -> Option<Target<'a>> {
    let Some((name, rest)) = path.split_first() else {
        return Some(Target::Module(at));
    };
    let module = &modules[at];
    // A function and a module may have the same name: what goes on is the module.
    if let Some(&child) = module.children.get(name)
        && (!rest.is_empty() || !module.items.contains(name))
    {
        return follow(modules, child, rest, seen);
    }
    if module.items.contains(name) {
        return Some(Target::Item(&module.file, name.clone()));
    }
    if !seen.insert((at, name)) {
        return None;
    }
    if let Some(path) = module.imports.get(name) {
        // `use foo::{self}` under its own name is about a crate.
        if path.len() == 1 && path[0] == *name {
            return None;
        }
        return match resolve(modules, at, path, seen)? {
            Target::Module(next) => follow(modules, next, rest, seen),
            item => Some(item),
        };
    }
    module.globs.iter().find_map(|glob| {
        match resolve(modules, at, glob, seen)? {
            Target::Module(next) if next != at => follow(modules, next, path, seen),
            // All of an enum's variants.
            _ => None,
        }
    })
}
