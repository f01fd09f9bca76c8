//! The counts on record, and how others compare with them.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde_json::Value;

use crate::cases::CALLS;

/// By how many percent a count may differ from the one on record.
pub(crate) const TOLERANCE: f64 = 5.0;

/// Instructions of one call, by case.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Record(BTreeMap<String, f64>);

impl Record {
    /// Reads the file on record.
    pub(crate) fn read() -> Result<Self, String> {
        let path = path();
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        serde_json::from_str(&text)
            .map(Self)
            .map_err(|error| format!("{} is not what it should be: {error}", path.display()))
    }

    /// Writes the file on record.
    pub(crate) fn write(&self) -> Result<(), String> {
        let path = path();
        let text = serde_json::to_string_pretty(&self.0).map_err(|error| error.to_string())?;
        fs::write(&path, text + "\n")
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Reads what gungraun prints: one JSON object per case.
    pub(crate) fn of_gungraun(output: &str) -> Result<Self, String> {
        let mut counts = BTreeMap::new();
        for line in output.lines().filter(|line| line.starts_with('{')) {
            let case: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            let id = case["id"].as_str().ok_or("a case without an id")?;
            let count = instructions(&case).ok_or_else(|| format!("{id} was not counted"))?;
            counts.insert(id.to_owned(), per_call(count));
        }
        if counts.is_empty() {
            return Err("nothing was counted".to_owned());
        }
        Ok(Self(counts))
    }

    /// Returns a line for each case, with the count on record beside it.
    pub(crate) fn beside(&self, known: &Self) -> Vec<String> {
        let line = |(case, count): (&String, &f64)| match known.0.get(case) {
            Some(known) => {
                format!("{case:<36} {known:>12.1} {count:>12.1} {:>+7.1}%", change(*known, *count))
            }
            None => format!("{case:<36} {:>12} {count:>12.1}", "-"),
        };
        self.0.iter().map(line).collect()
    }

    /// Names the cases that are too far from those on record, and those that only one side has.
    pub(crate) fn away_from<'a>(&'a self, known: &'a Self) -> Vec<&'a str> {
        let is_near = |(case, count): (&String, &f64)| {
            known.0.get(case).is_some_and(|known| change(*known, *count).abs() <= TOLERANCE)
        };
        let away = self.0.iter().filter(|row| !is_near(*row)).map(|(case, _)| case);
        let gone = known.0.keys().filter(|case| !self.0.contains_key(*case));
        away.chain(gone).map(String::as_str).collect()
    }
}

/// Returns the file of the checkout that this program is started in, which need not be the one that
/// it was built in; cargo says which one that is, and else it is the one around this directory.
fn path() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| "benches".into());
    PathBuf::from(package).join("instructions.json")
}

fn instructions(case: &Value) -> Option<f64> {
    case["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"].as_f64()
}

/// Rounds to a tenth, which is more than the compiler repeats.
#[expect(clippy::cast_precision_loss, reason = "a thousand is small")]
fn per_call(instructions: f64) -> f64 {
    (instructions / CALLS as f64 * 10.0).round() / 10.0
}

fn change(known: f64, count: f64) -> f64 {
    (count / known - 1.0) * 100.0
}
