//! No layer imports from a layer above it, neither crates nor the modules of the monitor; the
//! program of a VM's process has few dependencies; and no files import each other in a circle.
//!
//! The tables here describe the crates. Circles need no table: the check
//! looks for them in every library and program of the workspace.

mod circles;
mod imports;
mod modules;

use crate::run::output;
use crate::workspace::{Metadata, cargo, metadata, root};
use anyhow::{Result, bail};
use circles::Circle;
use imports::Imports;
use std::path::{Path, PathBuf};

/// Which of our crates each may import. `xtask` may import none and is not listed.
const CRATES: &[(&str, &[&str])] = &[
    ("hyperfork-api", &[]),
    ("hyperfork-netlink", &[]),
    ("hyperfork-sys", &[]),
    ("hyperfork-state", &["hyperfork-api"]),
    ("hyperfork-nano", &["hyperfork-api"]),
    ("hyperfork-agent", &["hyperfork-api", "hyperfork-netlink"]),
    ("hyperfork-image", &["hyperfork-api"]),
    (
        "hyperfork-net",
        &["hyperfork-api", "hyperfork-netlink", "hyperfork-sys"],
    ),
    (
        "hyperfork-vmm",
        &["hyperfork-api", "hyperfork-state", "hyperfork-sys"],
    ),
    (
        "hyperfork-host",
        &[
            "hyperfork-api",
            "hyperfork-net",
            "hyperfork-state",
            "hyperfork-sys",
        ],
    ),
    (
        "hyperfork-monitor",
        &[
            "hyperfork-api",
            "hyperfork-host",
            "hyperfork-net",
            "hyperfork-state",
            "hyperfork-sys",
            "hyperfork-vmm",
        ],
    ),
    // Of the nano guest only what it computes, to check its answers; of the machine what a
    // fork comes to without processes.
    (
        "hyperfork-bench",
        &[
            "hyperfork-api",
            "hyperfork-host",
            "hyperfork-nano",
            "hyperfork-state",
            "hyperfork-sys",
            "hyperfork-vmm",
        ],
    ),
    (
        "hyperfork-cli",
        &[
            "hyperfork-api",
            "hyperfork-bench",
            "hyperfork-host",
            "hyperfork-image",
            "hyperfork-monitor",
            "hyperfork-nano",
            "hyperfork-net",
            "hyperfork-sys",
            "hyperfork-vmm",
        ],
    ),
];

/// The crates of which a VM's process is made: theirs is all that its program links.
const MONITOR: &[&str] = &["hyperfork-monitor"];

/// What none of them may bring along, however far down.
const NOT_IN_THE_MONITOR: &[&str] = &[
    "axum",
    "clap",
    "hyper",
    "indicatif",
    "object_store",
    "plotters",
    "reqwest",
    "tokio",
];

/// Modules of crates that have layers inside, from the bottom up. Each may use those
/// before it.
const MODULES: &[(&str, &[&str])] = &[(
    "hyperfork-vmm",
    &[
        "blobs", "memory", "kvm", "bus", "devices", "boot", "snapshot", "machine",
    ],
)];

/// # Errors
/// With everything that breaks the order.
pub(crate) fn check() -> Result<()> {
    let metadata = metadata()?;
    let mut broken = crates(&metadata);
    broken.extend(monitor()?);
    let mut files = 0;
    for package in metadata.members() {
        for root in package.roots() {
            let imports = relative(imports::of_crate(root)?);
            files += imports.len();
            broken.extend(modules_out_of_order(&package.name, &imports));
            broken.extend(circles::find(&imports).iter().map(Circle::to_string));
        }
    }
    if !broken.is_empty() {
        bail!("layers are broken:\n  {}", broken.join("\n  "));
    }
    println!("layers: in order, {files} files");
    Ok(())
}

/// What crates import from above, by their manifests. Tests may look wherever they want.
fn crates(metadata: &Metadata) -> Vec<String> {
    let mut broken = Vec::new();
    for package in metadata.members().filter(|package| package.name != "xtask") {
        let Some((_, may)) = CRATES.iter().find(|(name, _)| *name == package.name) else {
            broken.push(format!(
                "{} has no place in xtask/src/layers/mod.rs",
                package.name
            ));
            continue;
        };
        broken.extend(
            package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
                .map(|dependency| dependency.name.as_str())
                .filter(|name| name.starts_with("hyperfork-") && !may.contains(name))
                .map(|name| format!("{} imports {name}", package.name)),
        );
    }
    broken
}

/// What the monitor's crates bring along that they must not.
fn monitor() -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for package in MONITOR {
        let tree = output(&mut cargo(&[
            "tree",
            "--locked",
            "--package",
            package,
            "--edges=normal",
            "--prefix=none",
            "--format={lib}",
        ]))?;
        let brought = |name: &&&str| tree.lines().any(|line| line == **name);
        broken.extend(NOT_IN_THE_MONITOR.iter().filter(brought).map(|name| {
            format!("{package} is built with {name}: cargo tree -p {package} -e normal -i {name}")
        }));
    }
    Ok(broken)
}

/// The same with paths as messages show them: from the workspace's root.
fn relative(imports: Imports) -> Imports {
    let short = |path: PathBuf| match path.strip_prefix(root()) {
        Ok(path) => path.to_owned(),
        Err(_) => path,
    };
    imports
        .into_iter()
        .map(|(file, to)| {
            (
                short(file),
                to.into_iter()
                    .map(|(to, names)| (short(to), names))
                    .collect(),
            )
        })
        .collect()
}

/// Imports from a module further up, where a crate's modules have an order.
fn modules_out_of_order(package: &str, imports: &Imports) -> Vec<String> {
    let Some((_, order)) = MODULES.iter().find(|(name, _)| *name == package) else {
        return Vec::new();
    };
    let place = |file: &Path| {
        let module = file
            .components()
            .skip_while(|part| part.as_os_str() != "src")
            .nth(1)?;
        let module = Path::new(module.as_os_str()).file_stem()?.to_str()?;
        order.iter().position(|name| *name == module)
    };
    let mut broken = Vec::new();
    for (file, targets) in imports {
        for (target, names) in targets {
            if place(file).is_some_and(|own| place(target).is_some_and(|other| other > own)) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                broken.push(format!(
                    "{} imports {} from above, {}",
                    file.display(),
                    names.join(", "),
                    target.display()
                ));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    /// The circles of a crate with these files.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let imports = imports::of_crate(&directory.path().join("lib.rs")).unwrap();
        let prefix = format!("{}/", directory.path().display());
        let circles = circles::find(&imports).into_iter();
        circles
            .map(|circle| circle.way.replace(&prefix, ""))
            .collect()
    }

    #[test]
    fn a_circle_is_found_through_a_name_that_a_third_file_hands_on() {
        let found = circles(&[
            (
                "lib.rs",
                "mod a; mod b; pub use a::One; pub(crate) use b::*;",
            ),
            ("a.rs", "pub struct One; fn f() { crate::Two::new() }"),
            ("b/mod.rs", "mod c; pub use c::Two;"),
            ("b/c.rs", "use crate::One; pub struct Two;"),
        ]);
        assert_eq!(found, ["a.rs -(Two)-> b/c.rs -(One)-> a.rs"]);
    }

    #[test]
    fn a_path_in_a_macro_and_one_through_an_imported_module_count() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "use crate::b; pub const X: u8 = 0; fn f() { b::g() }",
            ),
            ("b.rs", "pub fn g() { println!(\"{}\", super::a::X) }"),
        ]);
        assert_eq!(found, ["a.rs -(g)-> b.rs -(X)-> a.rs"]);
    }

    #[test]
    fn parts_that_use_their_parent_and_tests_make_no_circle() {
        let found = circles(&[
            (
                "lib.rs",
                "mod a; pub struct Shared; #[cfg(test)] mod no_such_file; fn f() { a::g() }",
            ),
            (
                "a.rs",
                "use crate::Shared; pub fn g() {} #[cfg(test)] mod tests { use crate::b; }",
            ),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn modules_that_hand_on_each_other_come_to_an_end() {
        let found = circles(&[
            (
                "lib.rs",
                "mod a; mod b; pub use a::*; pub use b::*; fn f() { Nothing }",
            ),
            ("a.rs", "pub use crate::*; pub use crate::b::*;"),
            ("b.rs", "pub use crate::*; pub use crate::a::*;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_module_may_not_import_from_above() {
        let import = |from: &str, to: &str| {
            let src = Path::new("crates/vmm/src");
            let names = BTreeSet::from(["Name".to_owned()]);
            Imports::from([(src.join(from), [(src.join(to), names)].into())])
        };
        let told = |from, to| modules_out_of_order("hyperfork-vmm", &import(from, to));
        assert!(told("machine/mod.rs", "kvm/mod.rs").is_empty());
        assert_eq!(
            told("kvm/x.rs", "machine/mod.rs"),
            ["crates/vmm/src/kvm/x.rs imports Name from above, crates/vmm/src/machine/mod.rs"]
        );
    }
}
