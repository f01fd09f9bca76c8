use std::{fmt::Write as _, time::Duration};

use buttress::checkpoint::Payload;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cases::{self, Case};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    Quick,
    Full,
}

/// What puts of one size cost one case.
#[derive(Debug)]
pub(crate) struct Row {
    size: &'static str,
    case: &'static str,
    latencies: Vec<Duration>,
    per_second: f64,
    /// By how much the median is the bare one's.
    vs_bare: Option<f64>,
}

const SIZES: [(&str, usize, usize); 3] =
    [("1 KiB", 1 << 10, 400), ("64 KiB", 64 << 10, 300), ("1 MiB", 1 << 20, 60)];

/// Measures every case with every size.
pub(crate) async fn rows(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for (size, bytes, puts) in SIZES {
        let puts = if effort == Effort::Quick { 5 } else { puts };
        let state = Payload::json(&State { messages: state(bytes) }).expect("it can be written");
        let mut cases = cases::all().await;
        let mut latencies = vec![Vec::new(); cases.len()];
        for _ in 0..puts {
            for (case, latencies) in cases.iter_mut().zip(&mut latencies) {
                let started = Instant::now();
                case.put(&state).await;
                latencies.push(started.elapsed());
                // What a store does behind its answer is not the next one's.
                tokio::task::yield_now().await;
            }
        }
        let mut of_size = Vec::new();
        for (case, mut latencies) in cases.iter_mut().zip(latencies) {
            latencies.sort_unstable();
            let per_second = per_second(case, &state, puts).await;
            let (case, vs_bare) = (case.name, None);
            of_size.push(Row { size, case, latencies, per_second, vs_bare });
        }
        compare(&cases, &mut of_size);
        rows.extend(of_size);
    }
    rows
}

/// What is kept: written once, since a bare call is handed its bytes too.
#[derive(Serialize)]
struct State {
    messages: String,
}

/// Returns the text of a state that has so many bytes in JSON.
fn state(bytes: usize) -> String {
    let around = "{\"messages\":\"\"}".len();
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.alphanumeric()).take(bytes - around).collect()
}

async fn per_second(case: &mut Case, state: &Payload, puts: usize) -> f64 {
    let started = Instant::now();
    for _ in 0..puts {
        case.put(state).await;
    }
    puts as f64 / started.elapsed().as_secs_f64()
}

fn compare(cases: &[Case], rows: &mut [Row]) {
    for (at, case) in cases.iter().enumerate() {
        let bare = rows.iter().find(|row| Some(row.case) == case.beside).map(Row::median);
        rows[at].vs_bare = bare.map(|bare| rows[at].median() / bare);
    }
}

impl Row {
    fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of the length is a place in it"
        )]
        #[expect(clippy::cast_sign_loss, reason = "neither is negative")]
        let at = ((self.latencies.len() - 1) as f64 * share).round() as usize;
        self.latencies[at].as_secs_f64() * 1e6
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "size": self.size,
            "case": self.case,
            "us_min": self.quantile(0.0),
            "us_median": self.median(),
            "us_p99": self.quantile(0.99),
            "puts_per_s": self.per_second,
            "vs_bare": self.vs_bare,
        })
    }
}

/// Shows the rows to people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    _ = writeln!(
        text,
        "{:<8} {:<28} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "state", "store", "us min", "median", "p99", "puts/s", "vs bare"
    );
    for row in rows {
        let vs_bare = row.vs_bare.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        _ = writeln!(
            text,
            "{:<8} {:<28} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>8}",
            row.size,
            row.case,
            row.quantile(0.0),
            row.median(),
            row.quantile(0.99),
            row.per_second,
            vs_bare
        );
    }
    text
}
