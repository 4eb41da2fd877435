//! Serialises samples as columns: `"total_us": [12.0, 13.5, …]`, so that each name is written only
//! once. A value that a sample lacks is `null`.

use super::sample::Sample;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub(super) fn serialize<S: Serializer>(
    samples: &[Sample],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let rows: Result<Vec<Value>, _> = samples.iter().map(serde_json::to_value).collect();
    columns(rows.map_err(S::Error::custom)?).serialize(serializer)
}

/// Reads samples one by one as well: so older results have them.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Sample>, D::Error> {
    let rows = match Value::deserialize(deserializer)? {
        Value::Array(rows) => rows,
        columns => rows(&columns),
    };
    serde_json::from_value(Value::Array(rows)).map_err(D::Error::custom)
}

/// Objects become one object of columns; anything else stays a list.
fn columns(mut rows: Vec<Value>) -> Value {
    let names: BTreeSet<String> = rows
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|row| row.keys().cloned())
        .collect();
    if names.is_empty() {
        return Value::Array(rows);
    }
    let mut column = |name: &String| {
        let taken = rows.iter_mut().map(|row| match row.get_mut(name) {
            Some(value) => value.take(),
            None => Value::Null,
        });
        (name.clone(), columns(taken.collect()))
    };
    Value::Object(names.iter().map(&mut column).collect())
}

/// The other way round.
fn rows(columns: &Value) -> Vec<Value> {
    let columns = match columns {
        Value::Array(rows) => return rows.clone(),
        Value::Object(columns) => columns,
        _ => return Vec::new(),
    };
    let mut all: Vec<Map<String, Value>> = Vec::new();
    for (name, column) in columns {
        for (place, value) in rows(column).into_iter().enumerate() {
            if place == all.len() {
                all.push(Map::new());
            }
            if !value.is_null() {
                all[place].insert(name.clone(), value);
            }
        }
    }
    all.into_iter().map(Value::Object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_columns_and_read_back_as_they_were() {
        let with = |total_us, ready_us, phases: &[(&str, f64)]| Sample {
            ready_us,
            phases_us: phases
                .iter()
                .map(|(name, us)| ((*name).to_owned(), *us))
                .collect(),
            ..Sample::ready_after(total_us)
        };
        let samples = [
            with(1.0, None, &[]),
            with(2.5, Some(3.0), &[("capture", 0.5), ("state", 0.25)]),
        ];
        let written = serialize(&samples, serde_json::value::Serializer).unwrap();
        assert_eq!(
            written,
            serde_json::json!({
                "total_us": [1.0, 2.5],
                "ready_us": [null, 3.0],
                "phases_us": {"capture": [null, 0.5], "state": [null, 0.25]},
            })
        );
        assert_eq!(deserialize(written).unwrap(), samples);
        let one_by_one = serde_json::to_value(&samples).unwrap();
        assert_eq!(deserialize(one_by_one).unwrap(), samples);
        let none = serialize(&[], serde_json::value::Serializer).unwrap();
        assert!(deserialize(none).unwrap().is_empty());
    }
}
