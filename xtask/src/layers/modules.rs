//! The modules of a crate as its source has them: what each defines, what it imports
//! under which name, and which paths it writes.
//!
//! Code for tests is left out: whatever is under a `cfg` that asks for `test`.

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Meta, UseTree, Visibility};

/// One module; a file has one, and one more for each `mod name { … }` in it.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) file: PathBuf,
    pub(super) parent: Option<usize>,
    pub(super) children: HashMap<String, usize>,
    /// What it defines itself.
    pub(super) items: HashSet<String>,
    /// What its names from elsewhere stand for.
    pub(super) imports: HashMap<String, Vec<String>>,
    /// The modules of which it imports everything.
    pub(super) globs: Vec<Vec<String>>,
    /// Paths it uses. A `pub use` is none: it re-exports a name.
    pub(super) paths: HashSet<Vec<String>>,
}

/// The modules of the crate whose root is this file; the first is the root.
pub(super) fn read(root: &Path) -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    let directory = root.parent().unwrap_or(Path::new("")).to_owned();
    read_file(root, directory, None, &mut modules)?;
    Ok(modules)
}

/// Reads a file and those below it, whose files are in `directory`.
fn read_file(
    file: &Path,
    directory: PathBuf,
    parent: Option<usize>,
    modules: &mut Vec<Module>,
) -> Result<usize> {
    let told = || file.display().to_string();
    let text = fs::read_to_string(file).with_context(told)?;
    let syntax = syn::parse_file(&text).with_context(told)?;
    read_module(file, &directory, parent, &syntax.items, modules)
}

fn read_module(
    file: &Path,
    directory: &Path,
    parent: Option<usize>,
    items: &[Item],
    modules: &mut Vec<Module>,
) -> Result<usize> {
    let number = modules.len();
    modules.push(Module {
        file: file.to_owned(),
        parent,
        ..Module::default()
    });
    let mut reader = Reader::default();
    for item in items {
        reader.visit_item(item);
    }
    for inner in reader.inner {
        let name = inner.ident.to_string();
        let below = directory.join(&name);
        let child = match &inner.content {
            Some((_, items)) => read_module(file, &below, Some(number), items, modules)?,
            None => {
                let own = below.with_extension("rs");
                let folder = below.join("mod.rs");
                let file = match given_path(&inner.attrs) {
                    Some(path) => file.with_file_name(path),
                    None if own.is_file() => own,
                    None if folder.is_file() => folder,
                    None => bail!("{}: no file for `mod {name};`", file.display()),
                };
                read_file(&file, below, Some(number), modules)?
            }
        };
        reader.module.children.insert(name, child);
    }
    let module = &mut modules[number];
    *module = Module {
        file: std::mem::take(&mut module.file),
        parent,
        ..reader.module
    };
    Ok(number)
}

/// What `#[path = "…"]` says.
fn given_path(attributes: &[Attribute]) -> Option<String> {
    attributes
        .iter()
        .find_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
                syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(path),
                    ..
                }) => Some(path.value()),
                _ => None,
            },
            _ => None,
        })
}

/// Whether something is compiled for tests only (or for those and fuzzing).
fn is_for_tests(attributes: &[Attribute]) -> bool {
    fn asks(tokens: TokenStream) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(word) => word == "test",
            TokenTree::Group(group) => asks(group.stream()),
            _ => false,
        })
    }
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => asks(list.tokens.clone()),
        meta => meta.path().is_ident("test"),
    })
}

/// Collects what one module has, up to the modules in it.
#[derive(Default)]
struct Reader<'a> {
    module: Module,
    inner: Vec<&'a syn::ItemMod>,
}

impl<'a> Visit<'a> for Reader<'a> {
    fn visit_item(&mut self, item: &'a Item) {
        if is_for_tests(attributes_of(item)) {
            return;
        }
        if let Some(name) = name_of(item) {
            self.module.items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'a ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => return,
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, inner: &'a syn::ItemMod) {
        self.inner.push(inner);
    }

    fn visit_item_use(&mut self, import: &'a syn::ItemUse) {
        let hands_on = !matches!(import.vis, Visibility::Inherited);
        self.import(&import.tree, &mut Vec::new(), hands_on);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names = path.segments.iter().map(|part| part.ident.to_string());
        self.module.paths.insert(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    // Attributes are for the compiler and for derives, not for us.
    fn visit_attribute(&mut self, _: &'a Attribute) {}
    // `pub(in crate::…)` imports nothing.
    fn visit_visibility(&mut self, _: &'a Visibility) {}
}

impl Reader<'_> {
    fn import(&mut self, tree: &UseTree, before: &mut Vec<String>, hands_on: bool) {
        let (name, renamed) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, hands_on);
                before.pop();
                return;
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, hands_on);
                }
                return;
            }
            UseTree::Glob(_) => {
                self.module.globs.push(before.clone());
                return;
            }
            UseTree::Name(name) => (name.ident.to_string(), None),
            UseTree::Rename(both) => (both.ident.to_string(), Some(both.rename.to_string())),
        };
        let mut path = before.clone();
        if name != "self" {
            path.push(name);
        }
        if !hands_on {
            self.module.paths.insert(path.clone());
        }
        if let Some(name) = renamed.or_else(|| path.last().cloned()) {
            self.module.imports.insert(name, path);
        }
    }

    /// What looks like a path in a macro's input.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        // Where in `a::b` the last token was: colons, or something that ends a path.
        let (mut colons, mut after_dot) = (0, false);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.path_in_macro(&mut path);
                    }
                    if !after_dot {
                        path.push(name.to_string());
                    }
                    (colons, after_dot) = (0, false);
                }
                TokenTree::Punct(sign) => {
                    colons = if sign.as_char() == ':' { colons + 1 } else { 0 };
                    after_dot = sign.as_char() == '.';
                    if colons == 0 {
                        self.path_in_macro(&mut path);
                    }
                }
                TokenTree::Group(group) => {
                    self.path_in_macro(&mut path);
                    self.tokens(group.stream());
                    (colons, after_dot) = (0, false);
                }
                TokenTree::Literal(_) => {
                    self.path_in_macro(&mut path);
                    (colons, after_dot) = (0, false);
                }
            }
        }
        self.path_in_macro(&mut path);
    }

    /// A single small word may be anything: a variable, a field, a keyword.
    fn path_in_macro(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        let is_type = |name: &String| name.starts_with(char::is_uppercase);
        if path.len() > 1 || path.first().is_some_and(is_type) {
            self.module.paths.insert(path);
        }
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
