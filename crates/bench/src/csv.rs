//! Results as comma-separated values (RFC 4180), for spreadsheets and R.

use crate::journal::Row;
use crate::stats::Summary;
use ::csv::{Terminator, WriterBuilder};
use serde_json::Value;
use std::io;

/// Writes a line of headings and a line for each row. A map becomes a column for each of
/// its keys.
///
/// # Errors
/// Those of writing.
pub fn csv<R: Row>(rows: &[R], file: impl io::Write) -> io::Result<()> {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| serde_json::to_value(row).unwrap_or_default())
        .collect();
    let mut columns: Vec<Vec<&str>> = Vec::new();
    let names = R::KEYS.iter().chain(&["n"]).chain(&Summary::COLUMNS);
    for name in names.chain(R::VALUES) {
        let mut keys: Vec<&str> = rows
            .iter()
            .filter_map(|row| row[name].as_object())
            .flat_map(|map| map.keys())
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        match keys.is_empty() {
            true => columns.push(vec![name]),
            false => columns.extend(keys.into_iter().map(|key| vec![*name, key])),
        }
    }
    let mut table = WriterBuilder::new()
        .terminator(Terminator::CRLF)
        .from_writer(file);
    table.write_record(columns.iter().map(|path| path.join(".")))?;
    for row in &rows {
        let cell = |path: &Vec<&str>| plain(path.iter().fold(row, |value, key| &value[key]));
        table.write_record(columns.iter().map(cell))?;
    }
    table.flush()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null | Value::Object(_) => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;

    #[derive(Clone, Serialize, Deserialize)]
    struct Line {
        name: String,
        n: usize,
        #[serde(flatten)]
        total: Summary,
        phases: BTreeMap<String, u64>,
        hidden: u64,
    }

    impl Row for Line {
        const KEYS: &'static [&'static str] = &["name"];
        const VALUES: &'static [&'static str] = &["phases"];
        fn title(&self) -> String {
            self.name.clone()
        }
        fn failed(&self) -> Option<&str> {
            None
        }
        fn summarise(&mut self) {}
        fn retry(&mut self) {}
    }

    #[test]
    fn maps_become_columns_and_commas_are_quoted() {
        let line = |name: &str, samples: &[f64], phases: &[(&str, u64)]| Line {
            name: name.to_owned(),
            n: samples.len(),
            total: Summary::of(samples.iter().copied()),
            phases: phases
                .iter()
                .map(|(name, us)| ((*name).to_owned(), *us))
                .collect(),
            hidden: 1,
        };
        let rows = [
            line("a", &[1.5], &[("run", 2), ("capture", 1)]),
            line("b, \"c\"", &[], &[]),
        ];
        let mut text = Vec::new();
        csv(&rows, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "name,n,mean_us,min_us,p2_5_us,p50_us,p97_5_us,p99_us,max_us,phases.capture,phases.run\r\n\
             a,1,1.5,1.5,1.5,1.5,1.5,1.5,1.5,1,2\r\n\
             \"b, \"\"c\"\"\",0,,,,,,,,,\r\n"
        );
    }
}
