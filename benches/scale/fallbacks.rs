//! Many fallbacks: a chain in which all but the last agent fail.

use std::hint::black_box;

use buttress::FallbackLayer;
use buttress_benches::drive::{Answers, Fails, call, discard};
use tower::Layer as _;

use crate::measure::{Effort, Table, count};

pub(crate) fn table(effort: Effort) -> Table {
    let mut table =
        Table::new("fallbacks", &["ns, primary answers", "ns, the last answers", "ns per agent"]);
    for fallbacks in effort.of(&[1, 2, 4, 8, 16, 32, 64], 4) {
        let mut chain = FallbackLayer::new();
        for place in 1..fallbacks {
            chain = chain.or(format!("fallback {place}"), Fails);
        }
        chain = chain.or("the last", Answers);
        let mut happy = chain.layer(Answers);
        let at_once = effort.nanos(100_000, || discard(call(&mut happy, black_box(35_u64))));
        let mut unhappy = chain.layer(Fails);
        let last = effort.nanos(20_000, || discard(call(&mut unhappy, black_box(35_u64))));
        table.row(fallbacks, [at_once, last, last / count(fallbacks + 1)]);
    }
    table
}
