//! Every dependency's licence is one we can ship with Apache-2.0.

use crate::workspace::metadata;
use anyhow::{Result, bail};

const GOOD: [&str; 13] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
    "MPL-2.0",
];

/// # Errors
/// With every package whose licence is not good.
pub(crate) fn check() -> Result<()> {
    let metadata = metadata()?;
    let bad: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(is_good))
        .map(|package| {
            format!(
                "{} {}: {:?}",
                package.name, package.version, package.license
            )
        })
        .collect();
    if !bad.is_empty() {
        bail!("licences to look at:\n  {}", bad.join("\n  "));
    }
    println!("licences: {} packages, all good", metadata.packages.len());
    Ok(())
}

/// Reads an SPDX expression of `OR`, `AND` and brackets: of alternatives one must
/// be good, of requirements all.
fn is_good(expression: &str) -> bool {
    // The old way to write `OR`.
    let expression = expression.replace('/', " OR ");
    split(&expression, " AND ").iter().all(|all| {
        split(all, " OR ").iter().any(|one| {
            let one = one.trim();
            match one.strip_prefix('(').and_then(|one| one.strip_suffix(')')) {
                Some(inner) => is_good(inner),
                None => GOOD.contains(&one),
            }
        })
    })
}

/// Splits at `separator` outside of brackets.
fn split<'a>(expression: &'a str, separator: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && at >= begin && expression[at..].starts_with(separator) {
            parts.push(&expression[begin..at]);
            begin = at + separator.len();
        }
    }
    parts.push(&expression[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::is_good;

    #[test]
    fn alternatives_need_one_good_licence_and_requirements_all() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
        ] {
            assert!(is_good(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "",
            "(GPL-2.0 OR GPL-3.0) AND MIT",
        ] {
            assert!(!is_good(bad), "{bad}");
        }
    }
}
