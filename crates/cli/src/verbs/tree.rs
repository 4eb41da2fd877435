//! `tree`.

use super::ps;
use crate::args::Tree;
use crate::config;
use crate::exit;
use crate::ui::{self, Table, mib};
use hyperfork_api::{VmInfo, VmName, VmState};
use serde::Serialize;

/// A VM and its clones: what `tree --json` prints.
#[derive(Debug, Serialize)]
struct Node {
    name: VmName,
    /// `null` for a parent that was removed.
    state: Option<VmState>,
    generation: u32,
    index: u32,
    shared_mib: f64,
    private_mib: f64,
    swapped_mib: f64,
    clones: Vec<Node>,
    #[serde(skip)]
    info: Option<VmInfo>,
}

const COLUMNS: [&str; 5] = ["NAME", "STATE", ">SHARED", ">PRIVATE", ">SWAPPED"];

/// Shows which VM was forked from which.
///
/// # Errors
/// The run directory's, or standard output's.
pub(crate) fn run(args: &Tree) -> anyhow::Result<u8> {
    let roots = grow(ps::all(&config::run_dir()?)?);
    if args.json {
        ui::json(&roots)?;
    } else {
        let mut table = Table::new(COLUMNS);
        for root in &roots {
            draw(root, "", "", &mut table);
        }
        ui::print(&table.render())?;
    }
    Ok(exit::OK)
}

fn grow(infos: Vec<VmInfo>) -> Vec<Node> {
    let (mut roots, mut waiting): (Vec<Node>, Vec<Node>) = infos
        .into_iter()
        .map(Node::of)
        .partition(|node| node.parent().is_none());
    // A parent is of an earlier generation, so the oldest VM of the rest can be placed.
    waiting.sort_by_key(|node| std::cmp::Reverse(node.generation));
    while let Some(node) = waiting.pop() {
        place(&mut roots, node);
    }
    roots.sort_by(|a, b| a.name.cmp(&b.name));
    roots
}

fn place(roots: &mut Vec<Node>, node: Node) {
    let Some(parent) = node.parent().cloned() else {
        return roots.push(node);
    };
    let found = roots
        .iter_mut()
        .find_map(|root| root.find(&parent, node.generation));
    let siblings = match found {
        Some(parent) => &mut parent.clones,
        None => {
            let at = roots.len();
            roots.push(Node::removed(parent, node.generation.saturating_sub(1)));
            &mut roots[at].clones
        }
    };
    siblings.push(node);
    siblings.sort_by(|a, b| (age(a), &a.name).cmp(&(age(b), &b.name)));
}

/// Clones are shown in the order in which they were made.
fn age(node: &Node) -> (u64, u32) {
    (
        node.info
            .as_ref()
            .map_or(0, |info| info.about.created_unix_ms),
        node.index,
    )
}

impl Node {
    fn of(info: VmInfo) -> Self {
        Self {
            name: info.about.name.clone(),
            state: Some(info.status.state),
            generation: info.about.generation,
            index: info.about.index,
            shared_mib: in_mib(info.usage.shared_kib),
            private_mib: in_mib(info.usage.private_kib),
            swapped_mib: in_mib(info.usage.swapped_kib),
            clones: Vec::new(),
            info: Some(info),
        }
    }

    fn removed(name: VmName, generation: u32) -> Self {
        Self {
            name,
            state: None,
            generation,
            index: 0,
            shared_mib: 0.0,
            private_mib: 0.0,
            swapped_mib: 0.0,
            clones: Vec::new(),
            info: None,
        }
    }

    fn parent(&self) -> Option<&VmName> {
        self.info.as_ref()?.about.parent.as_ref()
    }

    /// The parent called `name` of a clone of this generation. Another VM may have
    /// taken the name of one that was removed; it is of another generation.
    fn find(&mut self, name: &VmName, generation: u32) -> Option<&mut Self> {
        if self.name == *name && self.generation.checked_add(1) == Some(generation) {
            return Some(self);
        }
        self.clones
            .iter_mut()
            .find_map(|clone| clone.find(name, generation))
    }
}

/// MiB with two decimals.
fn in_mib(kib: u64) -> f64 {
    (kib as f64 / 1024.0 * 100.0).round() / 100.0
}

fn draw(node: &Node, lead: &str, below: &str, table: &mut Table) {
    let (state, memory) = match &node.info {
        Some(info) => {
            let memory = [
                info.usage.shared_kib,
                info.usage.private_kib,
                info.usage.swapped_kib,
            ];
            (ps::state(info), memory.map(mib))
        }
        None => ("removed".to_owned(), Default::default()),
    };
    let [shared, private, swapped] = memory;
    let name = format!("{lead}{}", node.name);
    table.row([name, state, shared, private, swapped]);
    for (at, clone) in node.clones.iter().enumerate() {
        let (branch, rest) = match at + 1 == node.clones.len() {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        draw(
            clone,
            &format!("{below}{branch}"),
            &format!("{below}{rest}"),
            table,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, parent: Option<&str>, generation: u32, index: u32) -> VmInfo {
        let info = serde_json::json!({
            "name": name,
            "state": "running",
            "answers": true,
            "parent": parent,
            "generation": generation,
            "index": index,
            "shared_kib": 1536,
            "private_kib": 3,
            "swapped_kib": 2048,
        });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn clones_hang_below_their_parents_in_the_order_they_were_made() {
        let roots = grow(vec![
            vm("p", None, 0, 0),
            vm("p-1", Some("p"), 1, 1),
            vm("p-1-1", Some("p-1"), 2, 1),
            vm("p-10", Some("p"), 1, 10),
            vm("p-2", Some("p"), 1, 2),
        ]);
        let mut table = Table::new(COLUMNS);
        draw(&roots[0], "", "", &mut table);
        let text = table.render();
        let names: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.split("  ").next().unwrap())
            .collect();
        assert_eq!(names, ["p", "├─ p-1", "│", "├─ p-2", "└─ p-10"]);
        assert!(text.contains("│  └─ p-1-1"), "{text}");
    }

    #[test]
    fn a_removed_parent_is_still_named_and_never_mistaken_for_its_successor() {
        let roots = grow(vec![
            vm("p", None, 0, 0),
            vm("p-1-1", Some("p-1"), 2, 1),
            vm("x", Some("p"), 5, 1),
        ]);
        let found: Vec<_> = roots
            .iter()
            .map(|root| (root.name.as_str(), root.state.is_some(), root.clones.len()))
            .collect();
        assert_eq!(found, [("p", true, 0), ("p", false, 1), ("p-1", false, 1)]);
    }

    #[test]
    fn the_tree_as_json_has_mebibytes_and_null_for_what_is_not_there() {
        let json = serde_json::to_value(grow(vec![vm("p-1", Some("p"), 1, 1)])).unwrap();
        assert_eq!(json[0]["state"], serde_json::Value::Null);
        assert_eq!(json[0]["clones"][0]["shared_mib"], 1.5);
        assert_eq!(json[0]["clones"][0]["swapped_mib"], 2.0);
        assert_eq!(json[0]["clones"][0]["state"], "running");
    }
}
