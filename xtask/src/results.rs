//! `docs/results`: one current set of raw figures for each experiment, in a form that
//! can be read and compared: what is short, and an array of numbers however long, stands
//! on one line.

use crate::workspace::root;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

const RESULTS: &str = "docs/results";

/// What all of them together may have, bytes: older ones are in git's history.
const MOST: u64 = 1_500_000;

/// Lines are broken where they would be longer, but in arrays of numbers.
const WIDTH: usize = 400;

/// Formats the results, or only checks them.
///
/// # Errors
/// When one is not as it should be.
pub(crate) fn results(check: bool) -> Result<()> {
    let mut wrong = Vec::new();
    let mut size = 0;
    for path in files(&root().join(RESULTS))? {
        let name = path.strip_prefix(root()).unwrap_or(&path).display();
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => format,
            Some("jsonl") => format_lines,
            _ => {
                size += path.metadata()?.len();
                continue;
            }
        };
        let readme = path.with_file_name("README.md");
        if !readme.is_file() {
            wrong.push(format!("{name} has no README.md beside it"));
        }
        let text = fs::read_to_string(&path)?;
        let formatted = format(&text).with_context(|| name.to_string())?;
        size += formatted.len() as u64;
        if formatted == text {
            continue;
        }
        if check {
            wrong.push(format!(
                "{name} is not formatted: run `cargo xtask results`"
            ));
        } else {
            fs::write(&path, formatted)?;
        }
    }
    if size > MOST {
        wrong.push(format!(
            "{RESULTS} has {size} bytes, more than {MOST}: keep the current set of each experiment"
        ));
    }
    if !wrong.is_empty() {
        bail!("results to look at:\n  {}", wrong.join("\n  "));
    }
    println!("results: in order, {} KiB", size >> 10);
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            match path.is_dir() {
                true => directories.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A JSON document whose numbers and strings stand as they were written: reading a number
/// may change its last digit.
enum Value<'a> {
    Scalar(&'a str),
    Array(Vec<Value<'a>>),
    /// Names with their quotes.
    Object(Vec<(&'a str, Value<'a>)>),
}

/// Formats a JSON document.
///
/// # Errors
/// When it is none.
pub(crate) fn format(text: &str) -> Result<String> {
    // From here on the text is known to be JSON.
    serde_json::from_str::<serde::de::IgnoredAny>(text)?;
    let mut formatted = String::new();
    read(&mut &*text)?.write(0, &mut formatted);
    formatted.push('\n');
    Ok(formatted)
}

/// Formats a JSON document a line.
fn format_lines(text: &str) -> Result<String> {
    let mut formatted = String::new();
    for line in text.lines() {
        serde_json::from_str::<serde::de::IgnoredAny>(line)?;
        formatted.push_str(&read(&mut &*line)?.line());
        formatted.push('\n');
    }
    Ok(formatted)
}

fn read<'a>(text: &mut &'a str) -> Result<Value<'a>> {
    if accept(text, '[') {
        let mut items = Vec::new();
        while !accept(text, ']') {
            items.push(read(text)?);
            accept(text, ',');
        }
        return Ok(Value::Array(items));
    }
    if accept(text, '{') {
        let mut fields = Vec::new();
        while !accept(text, '}') {
            let name = scalar(text)?;
            accept(text, ':');
            fields.push((name, read(text)?));
            accept(text, ',');
        }
        return Ok(Value::Object(fields));
    }
    Ok(Value::Scalar(scalar(text)?))
}

/// Takes a sign, if it is what comes next.
fn accept(text: &mut &str, sign: char) -> bool {
    *text = text.trim_start();
    text.strip_prefix(sign).map(|rest| *text = rest).is_some()
}

fn scalar<'a>(text: &mut &'a str) -> Result<&'a str> {
    *text = text.trim_start();
    let mut escaped = false;
    let end = match text.strip_prefix('"') {
        Some(inside) => inside
            .find(|sign| {
                let ends = sign == '"' && !escaped;
                escaped = sign == '\\' && !escaped;
                ends
            })
            .map(|end| end + 2),
        None => Some(
            text.find(|sign: char| ",:]}".contains(sign) || sign.is_whitespace())
                .unwrap_or(text.len()),
        ),
    };
    let (scalar, rest) = text.split_at(end.context("a string without an end")?);
    *text = rest;
    Ok(scalar)
}

impl Value<'_> {
    fn write(&self, depth: usize, to: &mut String) {
        let line = self.line();
        if self.is_plain() || (depth > 1 && line.len() <= WIDTH) {
            to.push_str(&line);
            return;
        }
        let new_line = |depth: usize, to: &mut String| {
            to.push('\n');
            to.extend(std::iter::repeat_n(' ', depth));
        };
        let (open, close) = match self {
            Value::Object(_) => ('{', '}'),
            _ => ('[', ']'),
        };
        to.push(open);
        let mut separate = false;
        let mut next = |name: Option<&str>, value: &Value<'_>| {
            if std::mem::replace(&mut separate, true) {
                to.push(',');
            }
            new_line(depth + 1, to);
            if let Some(name) = name {
                to.push_str(name);
                to.push_str(": ");
            }
            value.write(depth + 1, to);
        };
        match self {
            Value::Scalar(_) => {}
            Value::Array(items) => items.iter().for_each(|item| next(None, item)),
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, value)| next(Some(name), value)),
        }
        new_line(depth, to);
        to.push(close);
    }

    /// What is on one line however long: it has no parts with names.
    fn is_plain(&self) -> bool {
        match self {
            Value::Scalar(_) => true,
            Value::Array(items) => items.iter().all(|item| matches!(item, Value::Scalar(_))),
            Value::Object(fields) => fields.is_empty(),
        }
    }

    fn line(&self) -> String {
        match self {
            Value::Scalar(scalar) => (*scalar).to_owned(),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(Value::line).collect();
                format!("[{}]", items.join(","))
            }
            Value::Object(fields) => {
                let field = |(name, value): &(&str, Value<'_>)| format!("{name}:{}", value.line());
                let fields: Vec<String> = fields.iter().map(field).collect();
                format!("{{{}}}", fields.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn numbers_stand_in_one_line_and_samples_in_one_each() {
        let text = "{\"rows\":[{\"name\":\"a \\\"[b]\\\" \\\\\",\n\"samples\":[1.50, 2e3,\n-3],\
                    \"more\":[{\"x\":1,\"phases\":{\"y\": 2}}]}], \"none\": {}, \"host\":{\"cpu\":\"c\"}}";
        let padding = "\"pad\":\"".to_owned() + &"p".repeat(400) + "\"";
        let long = text.replace("\"samples\"", &format!("{padding},\"samples\""));
        let expected = format!(
            "{{\n \"rows\": [\n  {{\n   \"name\": \"a \\\"[b]\\\" \\\\\",\n   {},\n   \
             \"samples\": [1.50,2e3,-3],\n   \"more\": [{{\"x\":1,\"phases\":{{\"y\":2}}}}]\n  \
             }}\n ],\n \"none\": {{}},\n \"host\": {{\n  \"cpu\": \"c\"\n }}\n}}\n",
            padding.replace("\":\"", "\": \"")
        );
        let formatted = super::format(&long).unwrap();
        assert_eq!(formatted, expected);
        assert_eq!(super::format(&formatted).unwrap(), formatted);
        assert!(format("{\"a\": }").is_err());
    }
}
