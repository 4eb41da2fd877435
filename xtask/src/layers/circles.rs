//! Finds circles in an import graph.

use super::imports::Imports;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};

/// Files each of which can be reached from each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Circle {
    pub(super) files: BTreeSet<PathBuf>,
    /// The shortest way round, for people to look at: `a → b (Name) → a (Name)`.
    pub(super) way: String,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        write!(
            f,
            "{} files import each other in circles; the shortest: {}; all: {}",
            files.len(),
            self.way,
            files.join(", ")
        )
    }
}

/// All circles, none within another.
pub(super) fn find(imports: &Imports) -> Vec<Circle> {
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = imports
        .keys()
        .map(|file| (file.as_path(), reach(imports, file)))
        .collect();
    let mut circles: Vec<Circle> = Vec::new();
    for (file, from_here) in &reached {
        let known = circles.iter().any(|circle| circle.files.contains(*file));
        if known || !from_here.contains(file) {
            continue;
        }
        let back = |other: &&&Path| reached.get(**other).is_some_and(|set| set.contains(file));
        let files: BTreeSet<PathBuf> = from_here
            .iter()
            .filter(back)
            .map(|&other| other.to_owned())
            .collect();
        let way = shortest(imports, &files);
        circles.push(Circle { files, way });
    }
    circles
}

/// All that a file imports from, and all that those do.
fn reach<'a>(imports: &'a Imports, from: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&Path> = targets(imports, from).collect();
    while let Some(file) = ahead.pop() {
        if reached.insert(file) {
            ahead.extend(targets(imports, file));
        }
    }
    reached
}

fn targets<'a>(imports: &'a Imports, from: &Path) -> impl Iterator<Item = &'a Path> {
    imports
        .get(from)
        .into_iter()
        .flat_map(|to| to.keys().map(PathBuf::as_path))
}

/// The shortest way round through some of these files.
fn shortest(imports: &Imports, files: &BTreeSet<PathBuf>) -> String {
    let ways = files.iter().filter_map(|start| round(imports, start));
    let way = ways.min_by_key(Vec::len).unwrap_or_default();
    let mut told = String::new();
    for (place, file) in way.iter().enumerate() {
        if place > 0 {
            let names = &imports[way[place - 1]][*file];
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            told.push_str(&format!(" -({})-> ", names.join(", ")));
        }
        told.push_str(&file.display().to_string());
    }
    told
}

/// The shortest way from a file back to it.
fn round<'a>(imports: &'a Imports, start: &'a Path) -> Option<Vec<&'a Path>> {
    let mut ways = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in targets(imports, way[way.len() - 1]) {
            let further = || way.iter().copied().chain([next]).collect();
            if next == start {
                return Some(further());
            }
            if seen.insert(next) {
                ways.push_back(further());
            }
        }
    }
    None
}
